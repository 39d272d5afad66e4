"""The gated cross-attention layers as ggml graphs, applied in place to the decoder's hidden state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionward.errors import ComputeError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.ggml import Tensor, Type
from visionward.runtime.ggml.graph import Allocator, Graph, Storage
from visionward.runtime.ggml.mmproj_weights import MmprojWeights

# Upper bounds of a layer's tensors in a graph; attention is divided into up to 32 blocks.
_MAX_KV_NODES = 32
_MAX_LAYER_NODES = 1024


@dataclass(frozen=True)
class ImageKV:
    """An image's keys and values for every cross-attention layer, on the device.

    Attributes:
        storage: tensors ``k.<n>`` and ``v.<n>``, (head_width, tokens, kv_heads) in ggml's order.
    """

    storage: Storage

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.storage.nbytes

    def close(self) -> None:
        """Free it; calling it again does nothing."""
        self.storage.close()


class CrossAttention:
    """The cross-attention layers of an mmproj file.

    Args:
        weights: the mmproj file, on the device.
        allocator: the device where the layers run, with its compute buffer.
        exact: attention in float32 as written, with float32 keys and values.
    """

    def __init__(self, weights: MmprojWeights, allocator: Allocator, *, exact: bool = False) -> None:
        self._weights = weights
        self._device = allocator.device
        self._allocator = allocator
        self._exact = exact
        self.config = weights.config.cross_attention

    @property
    def after(self) -> tuple[int, ...]:
        """For each layer, the index of the self-attention layer in the text file whose output it takes."""
        return tuple(layer - position - 1 for position, layer in enumerate(self.config.layers))

    def keys_and_values(self, states: Tensor) -> ImageKV:
        """Keys and values of an image for all layers. The caller closes them.

        Args:
            states: the image's projected tokens (width, tokens) in ggml's order.

        Raises:
            ComputeError: if memory does not suffice or the device fails.
        """
        config, w = self.config, self._weights
        dtype = Type.F32 if self._exact else Type.F16
        extents = (config.head_width, int(ggml.struct_of(states).ne[1]), config.head_count_kv)
        names = [f"{part}.{i}" for i in range(len(config.layers)) for part in "kv"]
        storage = Storage(self._device, dict.fromkeys(names, (dtype, extents)))
        layers = range(len(config.layers))
        try:
            # One graph, and one wait for the device.
            with Graph(self._allocator, max_nodes=_MAX_KV_NODES * len(layers), exact=self._exact) as g:
                for i in layers:
                    k = g.heads(g.linear(w[f"cross.blk.{i}.attn_k.weight"], states), config.head_count_kv)
                    k = g.rms_norm(k, w[f"cross.blk.{i}.attn_k_norm.weight"], config.rms_epsilon)
                    v = g.heads(g.linear(w[f"cross.blk.{i}.attn_v.weight"], states), config.head_count_kv)
                    g.store(g.by_head(k), storage[f"k.{i}"])
                    g.store(g.by_head(v), storage[f"v.{i}"])
                g.compute()
        except ComputeError:
            storage.close()
            raise
        return ImageKV(storage)

    def apply(self, indices: Sequence[int], hidden: Tensor, first_row: int, image: ImageKV) -> None:
        """Apply consecutive layers: replace the rows of a hidden state from ``first_row`` on by their output.

        Rows before it do not attend to the image and stay as they are (rule 6 of Meta's reference: neither attention
        nor MLP adds to them). The layers work in place if the tensor is on its device, and on a copy otherwise.

        Args:
            indices: which cross-attention layers, in their order.
            hidden: float32 (width, rows) in ggml's order, contiguous.
            first_row: the first row that attends to the image.
            image: the image.

        Raises:
            ComputeError: if the tensor has another layout, memory does not suffice or the device fails.
        """
        fields = ggml.struct_of(hidden)
        width, rows, stride = int(fields.ne[0]), int(fields.ne[1]), int(fields.nb[1])
        if fields.type != Type.F32 or width != self.config.embedding_length or stride != 4 * width:
            raise ComputeError(f"llama.cpp's hidden state has an untested layout: width {width}, stride {stride}.")
        count, offset = rows - first_row, first_row * stride
        with Graph(self._allocator, max_nodes=_MAX_LAYER_NODES * len(indices), exact=self._exact) as g:
            if self._device.holds(fields.buffer):
                x = ggml.new_tensor(g.context, Type.F32, 2, ggml.dimensions(width, count))
                ggml.backend_tensor_alloc(fields.buffer, x, ggml.get_data(hidden) + offset)
                g.store(self._layers(g, indices, x, image), x)
                g.compute()
                return
            host = np.empty((count, width), np.float32)
            ggml.backend_tensor_get(hidden, ggml.address_of(host), offset, host.nbytes)
            result = self._layers(g, indices, g.input(host), image)
            g.output(result)
            g.compute()
            ggml.backend_tensor_get(result, ggml.address_of(host), 0, host.nbytes)
            ggml.backend_tensor_set(hidden, ggml.address_of(host), offset, host.nbytes)

    def unsupported(self, tokens: int) -> set[str]:
        """The operations of the layers that the device does not support.

        Args:
            tokens: of the image.
        """
        found: set[str] = set()
        self._allocator.unsupported = found
        states = Storage(self._device, {"states": (Type.F32, (self.config.embedding_length, tokens))})
        try:
            image = self.keys_and_values(states["states"])
            for rows in (1, 64):
                with Graph(self._allocator, exact=self._exact) as g:
                    x = g.input(np.zeros((rows, self.config.embedding_length), np.float32))
                    g.output(self._layers(g, (0,), x, image))
                    g.compute()
            image.close()
        finally:
            states.close()
            self._allocator.unsupported = None
        return found

    def _layers(self, g: Graph, indices: Sequence[int], x: Tensor, image: ImageKV) -> Tensor:
        for index in indices:
            x = self._layer(g, index, x, image)
        return x

    def _layer(self, g: Graph, index: int, x: Tensor, image: ImageKV) -> Tensor:
        config, w, name = self.config, self._weights, f"cross.blk.{index}"
        normed = g.rms_norm(x, w[f"{name}.attn_norm.weight"], config.rms_epsilon)
        q = g.heads(g.linear(w[f"{name}.attn_q.weight"], normed), config.head_count)
        q = g.rms_norm(q, w[f"{name}.attn_q_norm.weight"], config.rms_epsilon)
        mixed = g.attention(g.by_head(q), image.storage[f"k.{index}"], image.storage[f"v.{index}"])
        x = g.add_gated(x, g.linear(w[f"{name}.attn_output.weight"], mixed), w.gate(f"{name}.gate_attn"))

        normed = g.rms_norm(x, w[f"{name}.ffn_norm.weight"], config.rms_epsilon)
        gate = g.linear(w[f"{name}.ffn_gate.weight"], normed)
        up = g.linear(w[f"{name}.ffn_up.weight"], normed)
        down = g.linear(w[f"{name}.ffn_down.weight"], g.swiglu(gate, up))
        return g.add_gated(x, down, w.gate(f"{name}.gate_ffn"))
