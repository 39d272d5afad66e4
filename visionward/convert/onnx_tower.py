"""The vision tower as an ONNX graph: pixels of the real tiles in, projected tokens out.

Token layout, padding collapse and the two attention calls in place of a mask are those of
runtime/vision/tower_plan.py. The number of tiles is open. Attention is MultiHeadAttention of com.microsoft, which ONNX
Runtime computes without storing the scores, and which OpenVINO decomposes and fuses.

The bias of collapsed keys is in two additional columns of every head: ones in the queries, log m in the keys. A bias
input would make ONNX Runtime store all scores, 2.6 GB for four tiles. There are two columns because bfloat16 needs both
to represent log m with float32's precision.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from visionward.convert.onnx_graph import MICROSOFT, OnnxGraph
from visionward.convert.onnx_rows import Rows, quantized_gelu, quantized_rows
from visionward.convert.onnx_weights import TowerSource, WeightEncoder
from visionward.formats.onnx_format import CHECKSUM_BYTES, FEATURES, PIXELS, RATIO_ID, TowerIdentity

Floats = npt.NDArray[np.float32]
_BIAS_COLUMNS = 2


class TowerEmitter:
    """Builds the graph of one tower.

    Args:
        source: the weights and the shape.
        weight_type: one of ``onnx_format.WEIGHT_TYPES``.
    """

    def __init__(self, source: TowerSource, weight_type: str) -> None:
        self.graph = OnnxGraph()
        self._source = source
        self._weight_type = weight_type
        self._config = source.config.vision
        self._weights = WeightEncoder(self.graph, source, weight_type)
        self._quantizes_rows = weight_type == "int8"

    def model(self, location: str) -> onnx.ModelProto:
        """The model. Its weights are in a file named ``location``; afterwards ``graph`` has their content."""
        result = self._emit()
        config, width = self._config, self._source.config.cross_attention.embedding_length
        pixels: list[str | int | None] = ["tiles", 3, config.tile_size, config.tile_size]
        inputs = [
            helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, pixels),
            helper.make_tensor_value_info(RATIO_ID, TensorProto.INT64, [1]),
        ]
        output = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["tiles", config.tile_tokens, width])
        identity = TowerIdentity.of(
            self._source.config, self._source.tower_hash, self._weight_type, self.graph.data_bytes + CHECKSUM_BYTES
        )
        return self.graph.model(inputs, output, result, location=location, metadata=identity.metadata())

    def _emit(self) -> str:
        g, config = self.graph, self._config
        self._plan()
        x = self._norm(self._embed(), "v.pre_ln")
        x = g.concat(x, g.constant(np.zeros((config.max_tiles * config.tile_padding, config.width))), axis=0)
        states = []
        for i in range(config.local_layers):
            if i in config.intermediate_layers:
                states.append(g.rows(x, self._zero, self._real))
            x = self._layer(x, f"v.blk.{i}", gated=False)
        x = g.op("Add", self._norm(x, "v.post_ln"), self._post_tile())
        for i in range(config.global_layers):
            x = self._layer(x, f"v.global.blk.{i}", gated=True)
        features = g.concat(g.rows(x, self._zero, self._real), *states, axis=1)
        projected = self._linear(Rows(features), "mm.0")
        return g.reshape(projected, -1, config.tile_tokens, self._source.config.cross_attention.embedding_length)

    def _plan(self) -> None:
        """The numbers of real, padding and all tokens (int64, shape (1,)), and the columns of the bias."""
        g, config = self.graph, self._config
        self._zero, tile_tokens = g.integers(0), g.integers(config.tile_tokens)
        self._tiles = g.op("Shape", PIXELS, start=0, end=1)
        unused = g.op("Sub", g.integers(config.max_tiles), self._tiles)
        self._padding = g.op("Min", unused, g.integers(1)) if config.padding_collapses else unused
        self._embedded = g.op("Add", self._tiles, self._padding)
        self._real = g.op("Mul", self._tiles, tile_tokens)
        zeros = config.max_tiles * config.tile_padding
        padding_rows = g.op("Mul", self._padding, tile_tokens)
        self._tokens = g.op("Add", g.op("Add", self._real, padding_rows), g.integers(zeros))
        if not config.padding_collapses:
            return
        heads, columns = g.integers(config.head_count), g.integers(_BIAS_COLUMNS)
        bias = g.reshape(g.op("Gather", g.constant(self._bias_table()), self._tiles, axis=0), 1, 1, _BIAS_COLUMNS)
        empty = g.constant(np.zeros((1, 1, _BIAS_COLUMNS)))
        self._key_columns = g.concat(
            g.expand(empty, self._real, heads, columns),
            g.expand(bias, padding_rows, heads, columns),
            g.expand(empty, g.integers(zeros), heads, columns),
            axis=0,
        )
        one = g.constant(np.ones((1, 1, _BIAS_COLUMNS)))
        self._query_columns = g.expand(one, self._real, heads, columns)

    def _bias_table(self) -> Floats:
        """The bias columns of the collapsed keys by the number of real tiles: (tiles + 1, columns).

        Their product with the ones in the queries is scaled like every score. The first column is log m truncated to
        bfloat16, the second the remainder.
        """
        config = self._config
        head_width = config.width // config.head_count
        unused = np.maximum(1, config.max_tiles - np.arange(config.max_tiles + 1))
        whole = (np.log(unused) * math.sqrt(head_width)).astype(np.float32)
        first = (whole.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return np.stack([first, whole - first], axis=1)

    def _embed(self) -> str:
        """Patches of the real tiles, class tokens and embeddings: (embedded tiles * tokens per tile, width)."""
        g, config = self.graph, self._config
        patch, side = config.patch_size, config.tile_size // config.patch_size
        pixels = PIXELS
        if config.tile_size % patch:
            cut = g.integers(side * patch, side * patch)
            pixels = g.op("Slice", pixels, g.integers(0, 0), cut, g.integers(2, 3))
        folded = g.reshape(pixels, -1, 3, side, patch, side, patch)
        folded = g.op("Transpose", folded, perm=[0, 2, 4, 1, 3, 5])
        folded = g.reshape(folded, -1, side * side, 3 * patch * patch)
        weight = self._weights.matrix("v.patch_embd.weight")
        patches = g.op("MatMul", folded, weight)
        width = g.integers(config.width)
        empty = g.constant(np.zeros((1, 1, 1)))
        class_rows = g.expand(empty, self._tiles, g.integers(1), width)
        padding = g.expand(empty, self._padding, g.integers(config.tile_tokens), width)
        tokens = g.concat(g.concat(class_rows, patches, axis=1), padding, axis=0)
        return g.reshape(g.op("Add", tokens, self._embedding()), -1, config.width)

    def _embedding(self) -> str:
        """The embedding that is added to the patches: (embedded tiles, tokens per tile, width)."""
        g, config = self.graph, self._config
        ratios, tiles, tokens, width = len(config.aspect_ratios) + 1, config.max_tiles, config.tile_tokens, config.width
        array, gate = self._source.array, self._gate("v.position_embd.gate")

        def position() -> Floats:
            base: Floats = np.float32(1 - gate) * array("v.position_embd.weight")
            base[0] += array("v.class_embd")
            return base[None]

        def tile_position() -> Floats:
            return gate * array("v.tile_position_embd.weight").reshape(ratios, tiles, tokens * width)

        added = self._float(self._weights.table("position", (1, tokens, width), position))
        table = self._weights.table("tile_position", (ratios, tiles, tokens * width), tile_position)
        added = g.op("Add", added, g.reshape(self._embedded_rows(table), -1, tokens, width))
        behind_class = np.ones((1, tokens, 1))
        behind_class[:, 0] = 0
        pre = g.op("Unsqueeze", self._embedded_rows(self._tile_table("v.pre_tile_embd")), g.integers(1))
        return g.op("Add", added, g.op("Mul", pre, g.constant(behind_class)))

    def _post_tile(self) -> str:
        """The embedding that is added between the two transformers: (tokens, width)."""
        g, config = self.graph, self._config
        table, width = self._tile_table("v.post_tile_embd"), g.integers(config.width)
        tiles = g.op("Unsqueeze", self._embedded_rows(table), g.integers(1))
        tiles = g.expand(tiles, self._embedded, g.integers(config.tile_tokens), width)
        zeros = g.op("Unsqueeze", self._canvas_rows(table), g.integers(1))
        zeros = g.expand(zeros, g.integers(config.max_tiles), g.integers(config.tile_padding), width)
        return g.concat(g.reshape(tiles, -1, config.width), g.reshape(zeros, -1, config.width), axis=0)

    def _tile_table(self, name: str) -> str:
        """A gated embedding of tiles: (aspect ratio ids, tiles, width)."""
        config, gate = self._config, self._gate(f"{name}.gate")
        shape = (len(config.aspect_ratios) + 1, config.max_tiles, config.width)
        return self._weights.table(name, shape, lambda: gate * self._source.array(f"{name}.weight"))

    def _embedded_rows(self, table: str) -> str:
        """The rows of a table (aspect ratio ids, tiles, ...) for the embedded tiles of the image's canvas."""
        return self.graph.rows(self._canvas_rows(table), self._zero, self._embedded)

    def _canvas_rows(self, table: str) -> str:
        """The rows of a table (aspect ratio ids, tiles, ...) for all tiles of the image's canvas."""
        row = self.graph.op("Gather", table, RATIO_ID, axis=0)
        return self._float(self.graph.op("Squeeze", row, self.graph.integers(0)))

    def _float(self, x: str) -> str:
        return self.graph.op("Cast", x, to=TensorProto.FLOAT)

    def _layer(self, x: str, name: str, *, gated: bool) -> str:
        g = self.graph
        gate_attn, gate_ffn = (self._gate(f"{name}.gate_{part}") if gated else 1.0 for part in ("attn", "ffn"))
        normed = self._rows(self._norm(x, f"{name}.ln1"))
        q, k, v = (self._linear(normed, f"{name}.attn_{part}", bias=False) for part in "qkv")
        mixed = Rows(self._attention(q, k, v))
        x = g.op("Add", x, self._linear(mixed, f"{name}.attn_out", bias=False, gate=gate_attn))
        normed = self._rows(self._norm(x, f"{name}.ln2"))
        inner = g.op("Gelu", self._linear(normed, f"{name}.ffn_up"), approximate="none")
        rows = quantized_gelu(g, inner) if self._quantizes_rows else Rows(inner)
        return g.op("Add", x, self._linear(rows, f"{name}.ffn_down", gate=gate_ffn))

    def _attention(self, q: str, k: str, v: str) -> str:
        """Real queries over all keys, padding queries over the real keys."""
        g, config = self.graph, self._config
        real = g.rows(q, self._zero, self._real)
        if config.padding_collapses:
            real = self._with_columns(real, self._query_columns)
            mixed = self._attend(real, self._with_columns(k, self._key_columns), v)
        else:
            mixed = self._attend(real, k, v)
        # There is always padding: a tile has a square number of tokens plus one, which is never a multiple of eight.
        padding = self._attend(
            g.rows(q, self._real, self._tokens), g.rows(k, self._zero, self._real), g.rows(v, self._zero, self._real)
        )
        return g.concat(mixed, padding, axis=0)

    def _with_columns(self, x: str, columns: str) -> str:
        """The heads of ``x`` (tokens, width), each with the bias columns at its end."""
        g, config = self.graph, self._config
        head_width = config.width // config.head_count
        by_head = g.reshape(x, -1, config.head_count, head_width)
        return g.reshape(g.concat(by_head, columns, axis=2), -1, config.head_count * (head_width + _BIAS_COLUMNS))

    def _attend(self, q: str, k: str, v: str) -> str:
        g, config = self.graph, self._config
        batch = g.integers(0)
        mixed = g.op(
            "MultiHeadAttention",
            *(g.op("Unsqueeze", part, batch) for part in (q, k, v)),
            domain=MICROSOFT,
            num_heads=config.head_count,
            scale=1 / math.sqrt(config.width // config.head_count),
        )
        return g.op("Squeeze", mixed, batch)

    def _rows(self, x: str) -> Rows:
        """Rows of a product, quantized if the weights are 8-bit integers."""
        return quantized_rows(self.graph, x) if self._quantizes_rows else Rows(x)

    def _linear(self, rows: Rows, name: str, *, bias: bool = True, gate: float = 1.0) -> str:
        """Rows times a matrix, plus its bias. The gate is multiplied into the weights."""
        g = self.graph
        if rows.scale:
            weight = self._weights.integer_matrix(f"{name}.weight", gate=gate)
            product = g.op("Mul", g.op("MatMul", rows.values, weight), rows.scale)
        else:
            product = g.op("MatMul", rows.values, self._weights.matrix(f"{name}.weight", gate=gate))
        if not bias:
            return product
        return g.op("Add", product, self._weights.bias(name, gate=gate, shift=rows.shift))

    def _norm(self, x: str, name: str) -> str:
        scale, bias = self._weights.vector(f"{name}.weight"), self._weights.vector(f"{name}.bias")
        return self.graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=self._config.layer_norm_epsilon)

    def _gate(self, name: str) -> float:
        """The factor of a gate: tanh of its parameter."""
        return math.tanh(float(self._source.array(name)[0]))
