"""The vision tower as ggml graphs: pixels to the projected tokens that the cross-attention layers read.

One graph per layer: the compute buffer stays that of one layer, and a cancelled job ends after the current layer.
"""

import math
from collections import OrderedDict

import numpy as np

from visionward.errors import ComputeError
from visionward.runtime.ggml.ggml import Tensor, Type
from visionward.runtime.ggml.graph import Allocator, Graph, Storage, read, write
from visionward.runtime.ggml.mmproj_weights import MmprojWeights
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision.tower import OnLayer
from visionward.runtime.vision.tower_plan import Array, EmbeddingWeights, TowerPlan

# Just below the largest float16, to which some GPUs clamp what is beyond it.
_SATURATED = 65500.0
# Canvases whose embeddings a GPU keeps: of the 11B model each takes 16 to 33 MB.
_KEPT_EMBEDDINGS = 4


class GgmlTower:
    """Encodes images with the weights of an mmproj file.

    Args:
        weights: the mmproj file, on the device.
        allocator: the device where the tower runs, with its compute buffer.
        exact: attention in float32 as written, and the full computation instead of collapsed padding.
    """

    def __init__(self, weights: MmprojWeights, allocator: Allocator, *, exact: bool = False) -> None:
        self._weights = weights
        self._device = allocator.device
        self._allocator = allocator
        self._exact = exact
        self._kept: OrderedDict[int, Storage] = OrderedDict()
        self.config = weights.config.vision
        self.width = weights.config.cross_attention.embedding_length

    def encode(self, tiles: Tiles, on_layer: OnLayer) -> Storage:
        """Projected tokens of the real tiles, as ``Tower.encode`` says.

        Raises:
            ComputeError: if memory does not suffice or the device fails.
        """
        plan = TowerPlan.of(self.config, tiles, collapse=not self._exact)
        bias = plan.key_bias()
        shapes: dict[str, tuple[Type, tuple[int, ...]]] = {
            "x": (Type.F32, (self.config.width, plan.tokens)),
            "features": (Type.F32, (self.config.feature_width, plan.real_tokens)),
        }
        if bias is not None:
            shapes["bias"] = (Type.F32 if self._exact else Type.F16, (plan.tokens, plan.real_tokens))
        work = Storage(self._device, shapes)
        try:
            self._embed(plan, tiles, bias, work)
            self._local_layers(plan, work, on_layer)
            self._global_layers(plan, work, on_layer)
            on_layer(self.config.layers, self.config.layers)
            return self._project(plan, work)
        finally:
            work.close()
            self._weights.release_tower()

    def close(self) -> None:
        """Free the embeddings that were kept; calling it again does nothing."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _graph(self) -> Graph:
        return Graph(self._allocator, exact=self._exact)

    def _embeddings(self, plan: TowerPlan) -> EmbeddingWeights:
        """Those of one canvas: all together take 295 MB in float32."""
        weights = self._weights
        return EmbeddingWeights(
            class_token=weights.array("v.class_embd"),
            position=weights.array("v.position_embd.weight"),
            position_gate=weights.gate("v.position_embd.gate"),
            tile_position=weights.slice("v.tile_position_embd.weight", plan.aspect_ratio_id),
            pre_tile=weights.slice("v.pre_tile_embd.weight", plan.aspect_ratio_id),
            pre_tile_gate=weights.gate("v.pre_tile_embd.gate"),
        )

    def _embedding(self, g: Graph, plan: TowerPlan) -> Tensor:
        """The embedding of every row, (width, rows). A GPU keeps those of the last canvases.

        NumPy takes 25 to 50 ms for it, a third of the time that an H200 takes for the tower.
        """
        if self._device.is_cpu:
            return g.input(plan.embedding(self._embeddings(plan)))
        kept = self._kept.pop(plan.aspect_ratio_id, None)
        if kept is None:
            while len(self._kept) >= _KEPT_EMBEDDINGS:
                self._kept.popitem(last=False)[1].close()
            embedding = plan.embedding(self._embeddings(plan))
            kept = Storage(self._device, {"embedding": (Type.F32, embedding.shape[::-1])})
            write(kept["embedding"], embedding)
        self._kept[plan.aspect_ratio_id] = kept
        return kept["embedding"]

    def _embed(self, plan: TowerPlan, tiles: Tiles, bias: Array | None, work: Storage) -> None:
        with self._graph() as g:
            patches = g.linear(self._weights["v.patch_embd.weight"], g.input(plan.patches(tiles.pixel_values)))
            x = g.add(patches, self._embedding(g, plan))
            x = self._norm(g, x, "v.pre_ln")
            if plan.zero_tokens:
                x = g.concat_rows(x, g.input(np.zeros((plan.zero_tokens, self.config.width), np.float32)))
            g.store(x, work["x"])
            if bias is not None:
                g.store(g.repeated_rows(g.input(bias[None]), plan.real_tokens), work["bias"])
            g.compute()

    def _add_post_tile(self, g: Graph, plan: TowerPlan, x: Tensor) -> Tensor:
        """The embedding of each tile, added to its tokens and to its padding."""
        gate = math.tanh(self._weights.gate("v.post_tile_embd.gate"))
        table = gate * self._weights.slice("v.post_tile_embd.weight", plan.aspect_ratio_id)
        embedded = plan.tokens - plan.zero_tokens
        x, padding = g.rows(x, 0, embedded), g.rows(x, embedded, plan.zero_tokens)
        x = g.add_by_group(x, g.input(table[: plan.embedded_tiles]))
        return g.concat_rows(x, g.add_by_group(padding, g.input(table))) if plan.zero_tokens else x

    def _local_layers(self, plan: TowerPlan, work: Storage, on_layer: OnLayer) -> None:
        taken = {layer: k for k, layer in enumerate(self.config.intermediate_layers)}
        for i in range(self.config.local_layers):
            on_layer(i, self.config.layers)
            with self._graph() as g:
                if i in taken:
                    self._take_feature(g, plan, work, 1 + taken[i])
                x = self._layer(g, plan, work, f"v.blk.{i}", gated=False)
                if i + 1 == self.config.local_layers:
                    x = self._norm(g, x, "v.post_ln")
                    x = self._add_post_tile(g, plan, x)
                g.store(x, work["x"])
                g.compute()

    def _global_layers(self, plan: TowerPlan, work: Storage, on_layer: OnLayer) -> None:
        for i in range(self.config.global_layers):
            on_layer(self.config.local_layers + i, self.config.layers)
            with self._graph() as g:
                g.store(self._layer(g, plan, work, f"v.global.blk.{i}", gated=True), work["x"])
                g.compute()

    def _project(self, plan: TowerPlan, work: Storage) -> Storage:
        states = Storage(self._device, {"states": (Type.F32, (self.width, plan.real_tokens))})
        try:
            with self._graph() as g:
                self._take_feature(g, plan, work, 0)
                projected = g.linear(self._weights["mm.0.weight"], work["features"], self._weights["mm.0.bias"])
                g.store(projected, states["states"])
                g.compute()
            self._check_finite(states)
        except ComputeError:
            states.close()
            raise
        return states

    def _check_finite(self, states: Storage) -> None:
        """Check the features on the device: only a scalar is read. All of what is not finite before reaches them.

        Raises:
            ComputeError: if one is not finite, or has the magnitude at which float16 saturates.
        """
        with self._graph() as g:
            count = g.count_above(states["states"], _SATURATED)
            g.output(count)
            g.compute()
            if self._allocator.unsupported is None and read(count, (1,))[0] != 0:
                raise ComputeError(self._overflow)

    @property
    def _overflow(self) -> str:
        wrong = "the vision features are not all finite"
        if self._device.is_cpu:
            return f"{wrong}; the mmproj file may be damaged."
        return (
            f"overflow on {self._device.name}: {wrong}; compute the vision tower on the CPU (--vision-device CPU), and "
            "check the mmproj file with `visionward verify`."
        )

    def unsupported(self) -> set[str]:
        """The operations of the tower that its device does not support, for an image that fills all tiles."""
        ratio = max(self.config.aspect_ratios, key=lambda ratio: ratio[0] * ratio[1])
        shape = (ratio[0] * ratio[1], 3, self.config.tile_size, self.config.tile_size)
        found: set[str] = set()
        self._allocator.unsupported = found
        try:
            self.encode(Tiles(np.zeros(shape, np.float32), ratio), lambda *_: None).close()
        finally:
            self._allocator.unsupported = None
        return found

    def _take_feature(self, g: Graph, plan: TowerPlan, work: Storage, block: int) -> None:
        width = self.config.width
        g.store(g.rows(work["x"], 0, plan.real_tokens), g.columns(work["features"], block * width, width))

    def _norm(self, g: Graph, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return g.layer_norm(x, weight, bias, self.config.layer_norm_epsilon)

    def _layer(self, g: Graph, plan: TowerPlan, work: Storage, name: str, *, gated: bool) -> Tensor:
        w, x = self._weights, work["x"]
        heads, real, padding = self.config.head_count, plan.real_tokens, plan.tokens - plan.real_tokens

        normed = self._norm(g, x, f"{name}.ln1")
        q = g.linear(w[f"{name}.attn_q.weight"], normed)
        k = g.attention_input(g.by_head(g.heads(g.linear(w[f"{name}.attn_k.weight"], normed), heads)))
        v = g.attention_input(g.by_head(g.heads(g.linear(w[f"{name}.attn_v.weight"], normed), heads)))
        bias = work.get("bias")
        mixed = g.attention(g.by_head(g.heads(g.rows(q, 0, real), heads)), k, v, bias)
        if padding:
            of_padding = g.by_head(g.heads(g.rows(q, real, padding), heads))
            mixed = g.concat_rows(mixed, g.attention(of_padding, g.first_keys(k, real), g.first_keys(v, real)))
        update = g.linear(w[f"{name}.attn_out.weight"], mixed)
        x = g.add_gated(x, update, w.gate(f"{name}.gate_attn")) if gated else g.add(x, update)

        normed = self._norm(g, x, f"{name}.ln2")
        inner = g.gelu(g.linear(w[f"{name}.ffn_up.weight"], normed, w[f"{name}.ffn_up.bias"]))
        update = g.linear(w[f"{name}.ffn_down.weight"], inner, w[f"{name}.ffn_down.bias"])
        return g.add_gated(x, update, w.gate(f"{name}.gate_ffn")) if gated else g.add(x, update)
