"""Building and computing one ggml graph: thin methods named after the formulas, and memory allocation."""

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.float16_sums import sums_float16_in_float32
from visionward.runtime.ggml.ggml import Tensor, Type

# Called with the input of a matrix product: the weight's name, and float32 (rows, columns of the weight).
ProductObserver = Callable[[str, npt.NDArray[np.float32]], None]

# Rows per tile of ggml's CPU flash attention (GGML_FA_TILE_Q in ggml-cpu/common.h).
_TILE_ROWS = 64
# Attention by two matrix products: bytes for the scores of a block of rows, and blocks that fit into max_nodes. The
# largest took 14 to 18 % less time for an image than the smallest on an H200, with equal results.
MIN_SCORE_BYTES, MAX_SCORE_BYTES = 128 * 2**20, 2**30
_MAX_BLOCKS = 32


class Allocator:
    """The compute buffer that the graphs of a device share; it grows to the largest of them.

    Attributes:
        observer: is given the input of every product with a weight in these graphs; usually None.
        score_bytes: memory for the scores of a block of rows, of which the buffer takes some three times as much.
        unsupported: usually None. While it is a set, graphs are not computed: it is given the operations that the
            device does not support.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.score_bytes = MIN_SCORE_BYTES
        self.unsupported: set[str] | None = None
        self.observer: ProductObserver | None = None
        self._handle: int | None = ggml.gallocr_new(device.buffer_type)

    def use_memory(self, nbytes: int) -> None:
        """Let attention take up to half of a device's free memory, within bounds."""
        self.score_bytes = min(MAX_SCORE_BYTES, max(MIN_SCORE_BYTES, nbytes // 6))

    def allocate(self, graph: int) -> None:
        """Allocate every tensor of a graph.

        Raises:
            ComputeError: if the device's memory does not suffice.
        """
        if not ggml.gallocr_alloc_graph(self._handle, graph):
            raise ComputeError(
                f"{self.device.name} does not have enough memory for the computation; free some, or use the CPU."
            )

    def close(self) -> None:
        """Free the buffer; calling it again does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            ggml.gallocr_free(handle)


class Storage:
    """Tensors that outlive a graph, in a buffer of their own on a device.

    Args:
        device: where they are allocated.
        shapes: name to (element type, extents in ggml's order, innermost first).
    """

    def __init__(self, device: Device, shapes: dict[str, tuple[Type, tuple[int, ...]]]) -> None:
        self.device = device
        self._shapes = shapes
        size = (len(shapes) + 1) * ggml.tensor_overhead()
        self._context: int | None = ggml.init(ggml.InitParams(size, None, no_alloc=True))
        self._tensors: dict[str, Tensor] = {}
        for name, (dtype, extents) in shapes.items():
            tensor = ggml.new_tensor(self._context, dtype, len(extents), ggml.dimensions(*extents))
            ggml.set_name(tensor, name.encode())
            self._tensors[name] = tensor
        self._buffer: int | None = ggml.backend_alloc_ctx_tensors_from_buft(self._context, device.buffer_type)
        if self._buffer is None:
            self.close()
            raise ComputeError(
                f"{device.name} does not have enough memory for {', '.join(shapes)}; free some, or use the CPU."
            )
        self.nbytes = int(ggml.buffer_get_size(self._buffer))

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def get(self, name: str) -> Tensor | None:
        """A tensor, or None if there is none with that name."""
        return self._tensors.get(name)

    def moved(self, device: Device) -> "Storage":
        """The same tensors on another device. This storage is closed.

        Raises:
            ComputeError: if the device's memory does not suffice.
        """
        try:
            found = Storage(device, self._shapes)
            for name, tensor in self._tensors.items():
                ggml.backend_tensor_copy(tensor, found[name])
        finally:
            self.close()
        return found

    def close(self) -> None:
        """Free the memory; calling it again does nothing."""
        buffer, self._buffer = self._buffer, None
        context, self._context = self._context, None
        if buffer is not None:
            ggml.buffer_free(buffer)
        if context is not None:
            ggml.free(context)

    def __del__(self) -> None:
        self.close()


class Graph:
    """One compute graph. Use as a context manager: build with the methods, then ``compute``.

    Shapes in the methods' docstrings are ggml's: innermost extent first, so a matrix of n rows of width w is (w, n).

    Args:
        allocator: the compute buffer and the device.
        max_nodes: an upper bound of the number of tensors.
        exact: attention by two matrix products, with float32 keys and values, instead of flash attention.
    """

    def __init__(self, allocator: Allocator, *, max_nodes: int = 1024, exact: bool = False) -> None:
        self._allocator = allocator
        self._exact = exact
        self._inputs: list[tuple[Tensor, npt.NDArray[Any]]] = []
        self._observed: list[tuple[str, Tensor]] = []
        size = max_nodes * ggml.tensor_overhead() + ggml.graph_overhead_custom(max_nodes, False)
        self.context: int = ggml.init(ggml.InitParams(size, None, no_alloc=True))
        self._graph: int = ggml.new_graph_custom(self.context, max_nodes, False)

    def __enter__(self) -> "Graph":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ggml.free(self.context)

    def input(self, array: npt.NDArray[Any]) -> Tensor:
        """A tensor that receives an array's values (float32, float16 or int32) before the graph is computed."""
        dtypes = {"float32": Type.F32, "float16": Type.F16, "int32": Type.I32}
        array = np.ascontiguousarray(array)
        tensor = ggml.new_tensor(
            self.context, dtypes[array.dtype.name], array.ndim, ggml.dimensions(*reversed(array.shape))
        )
        ggml.set_input(tensor)
        self._inputs.append((tensor, array))
        return int(tensor)

    def output(self, tensor: Tensor) -> None:
        """Compute this tensor, and keep its memory until it is read."""
        ggml.set_output(tensor)
        ggml.build_forward_expand(self._graph, tensor)

    def store(self, tensor: Tensor, destination: Tensor) -> None:
        """Copy a result into a tensor that outlives the graph, converting its type."""
        ggml.build_forward_expand(self._graph, ggml.cpy(self.context, tensor, destination))

    def compute(self) -> None:
        """Allocate, fill the inputs, compute, and wait.

        Raises:
            ComputeError: if memory does not suffice or the backend fails.
        """
        if self._allocator.unsupported is not None:
            self._allocator.unsupported |= self._unsupported()
            return
        self._allocator.allocate(self._graph)
        for tensor, array in self._inputs:
            ggml.backend_tensor_set(tensor, ggml.address_of(array), 0, array.nbytes)
        self._allocator.device.compute(self._graph)
        if self._allocator.observer is not None:
            for name, x in self._observed:
                self._allocator.observer(name, read_rows(x))

    def _unsupported(self) -> set[str]:
        """The operations of the graph that the device does not support. ggml's CUDA backend aborts on such a one."""
        nodes = [ggml.graph_node(self._graph, index) for index in range(ggml.graph_n_nodes(self._graph))]
        backend = self._allocator.device.backend
        return {ggml.op_desc(node).decode() for node in nodes if not ggml.backend_supports_op(backend, node)}

    def linear(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Product of weight (in, out) and ``x`` (in, n), plus bias (out): (out, n).

        On GPUs float16 weights would otherwise be multiplied with a float16 sum and result, which can overflow. On an
        H200 that put the features of one tile off by 3.0e-3 instead of 4.0e-4, and was not faster. The kernels for
        quantized weights ignore the setting, and so do those of CPUs, of which some add up in float16: there the
        weights are widened for the product.
        """
        if self._allocator.observer is not None:
            # Later nodes do not overwrite an output. A view shares the memory of its source.
            ggml.set_output(ggml.struct_of(x).view_src or x)
            self._observed.append((ggml.get_name(weight).decode(), x))
        product = ggml.mul_mat(self.context, self._summed_in_float32(weight), x)
        ggml.mul_mat_set_prec(product, ggml.Precision.F32)
        return product if bias is None else int(ggml.add(self.context, product, bias))

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        """Layer norm over the innermost extent."""
        scaled = ggml.mul(self.context, ggml.norm(self.context, x, epsilon), weight)
        return int(ggml.add(self.context, scaled, bias))

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """RMS norm over the innermost extent."""
        return int(ggml.mul(self.context, ggml.rms_norm(self.context, x, epsilon), weight))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of ``a`` and ``b``, with ``b`` broadcast over ``a``."""
        return int(ggml.add(self.context, a, b))

    def add_gated(self, x: Tensor, update: Tensor, gate: float) -> Tensor:
        """Sum of ``x`` and tanh(gate) * update."""
        return int(ggml.add(self.context, x, ggml.scale(self.context, update, math.tanh(gate))))

    def count_above(self, x: Tensor, bound: float) -> Tensor:
        """How many numbers have a magnitude above a bound: a float32 scalar, NaN if one of them is."""
        beyond = ggml.scale_bias(self.context, ggml.absolute(self.context, x), 1.0, -bound)
        # The step of NaN is 0.
        counted = ggml.add(self.context, ggml.step(self.context, beyond), ggml.scale(self.context, beyond, 0.0))
        return int(ggml.total(self.context, counted))

    def gelu(self, x: Tensor) -> Tensor:
        """GELU by erf; the tanh approximation changes the logits by 2e-4."""
        return int(ggml.gelu_erf(self.context, x))

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """SwiGLU: silu(gate) * up."""
        return int(ggml.swiglu_split(self.context, gate, up))

    def rows(self, x: Tensor, first: int, count: int) -> Tensor:
        """A view of ``count`` rows of a matrix (width, n)."""
        stride = ggml.row_bytes(x)
        width = int(ggml.struct_of(x).ne[0])
        return int(ggml.view_2d(self.context, x, width, count, stride, first * stride))

    def columns(self, x: Tensor, first: int, count: int) -> Tensor:
        """A view of ``count`` columns of a contiguous float32 matrix (width, n)."""
        n = int(ggml.struct_of(x).ne[1])
        return int(ggml.view_2d(self.context, x, count, n, ggml.row_bytes(x), first * 4))

    def concat_rows(self, *parts: Tensor) -> Tensor:
        """Matrices of equal width, concatenated by rows."""
        whole = parts[0]
        for part in parts[1:]:
            whole = ggml.concat(self.context, whole, part, 1)
        return whole

    def repeated_rows(self, x: Tensor, count: int) -> Tensor:
        """One row (width, 1) repeated to a matrix (width, count)."""
        return int(ggml.repeat_4d(self.context, x, int(ggml.struct_of(x).ne[0]), count, 1, 1))

    def add_by_group(self, x: Tensor, table: Tensor) -> Tensor:
        """The rows of ``x`` (width, n), in equal groups one after the other, each plus its row of (width, groups)."""
        width, n = ggml.struct_of(x).ne[:2]
        groups = ggml.struct_of(table).ne[1]
        grouped = ggml.reshape_3d(self.context, x, width, n // groups, groups)
        added = ggml.add(self.context, grouped, ggml.reshape_3d(self.context, table, width, 1, groups))
        return int(ggml.reshape_2d(self.context, added, width, n))

    def heads(self, x: Tensor, count: int) -> Tensor:
        """Reshape (heads * head_width, n) to (head_width, heads, n)."""
        fields = ggml.struct_of(x)
        return int(ggml.reshape_3d(self.context, x, fields.ne[0] // count, count, fields.ne[1]))

    def by_head(self, x: Tensor) -> Tensor:
        """(head_width, heads, n) as a view (head_width, n, heads), the order for attention."""
        return int(ggml.permute(self.context, x, 0, 2, 1, 3))

    def first_keys(self, k: Tensor, count: int) -> Tensor:
        """The first keys (or values) of every head, as a view: (head_width, count, heads)."""
        f = ggml.struct_of(k)
        return int(ggml.view_3d(self.context, k, f.ne[0], count, f.ne[2], f.nb[1], f.nb[2], 0))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Softmax attention, scaled by 1 / sqrt(head_width), with float32 accumulation for any number of rows.

        On a CPU it is ggml's flash attention with float32 values. On other devices, and if exact, it is two matrix
        products: on GPUs flash attention accumulates in float16, whatever precision is requested, in ggml's CUDA
        kernels for tensor cores (fattn-mma-f16.cuh) and in its Vulkan shaders on devices with float16
        (flash_attn_base.glsl).

        Args:
            q: (head_width, rows, heads); may be a view.
            k: (head_width, keys, kv_heads); consecutive groups of heads share keys and values.
            v: like k.
            bias: added to the scores of every head, (keys, rows); float16, or float32 if exact.

        Returns:
            (heads * head_width, rows).
        """
        if self._exact or not self._allocator.device.is_cpu:
            return self._two_product_attention(q, k, v, bias)
        return self._flash_attention(q, k, v, bias)

    def _flash_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Attention by ggml's CPU kernel.

        With float16 values it accumulates in float16 for fewer than 64 rows, which is off by 0.05 over the tokens of
        four tiles. So values are converted to float32. Its fast path takes tiles of 64 rows of one head, with keys of
        the same type as the values. Rows of heads that share keys are put next to each other, so that 16 rows of four
        heads fill a tile.
        """
        fields = ggml.struct_of(q)
        width, rows, heads = int(fields.ne[0]), int(fields.ne[1]), int(fields.ne[2])
        kv_heads = int(ggml.struct_of(k).ne[2])
        group = heads // kv_heads if bias is None else 1
        if group > 1:
            q = ggml.reshape_3d(self.context, ggml.cont(self.context, q), width, rows * group, kv_heads)
        v = self._as_float32(v)
        k = self._as_float32(k) if rows * group >= _TILE_ROWS else self._summed_in_float32(k)
        mixed = ggml.flash_attn_ext(self.context, q, k, v, bias, 1 / math.sqrt(width), 0.0, 0.0)
        if group > 1:
            by_kv_head = ggml.reshape_4d(self.context, mixed, width, kv_heads, rows, group)
            mixed = ggml.cont(self.context, ggml.permute(self.context, by_kv_head, 0, 2, 3, 1))
        return int(ggml.reshape_2d(self.context, mixed, width * heads, rows))

    def _summed_in_float32(self, x: Tensor) -> Tensor:
        """A factor as it is, or in float32 if the device would add up its products in float16."""
        if ggml.struct_of(x).type != Type.F16 or not self._allocator.device.is_cpu or sums_float16_in_float32():
            return x
        return self._as_float32(x)

    def _as_float32(self, x: Tensor) -> Tensor:
        return x if ggml.struct_of(x).type == Type.F32 else int(ggml.cast(self.context, x, Type.F32))

    def _two_product_attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Attention by two matrix products, in blocks of rows that limit the memory for scores."""
        fields = ggml.struct_of(q)
        width, rows, heads = int(fields.ne[0]), int(fields.ne[1]), int(fields.ne[2])
        values = ggml.cont(self.context, ggml.permute(self.context, v, 1, 0, 2, 3))
        score_bytes = self._allocator.score_bytes
        block = max(1, score_bytes // (4 * int(ggml.struct_of(k).ne[1]) * heads), math.ceil(rows / _MAX_BLOCKS))
        parts = []
        for first in range(0, rows, block):
            count = min(block, rows - first)
            part = ggml.view_3d(
                self.context, q, width, count, heads, fields.nb[1], fields.nb[2], first * int(fields.nb[1])
            )
            # ggml's Vulkan backend converts rows that are not contiguous to float16: scores were off by 2.1e-4.
            scores = ggml.mul_mat(self.context, k, ggml.cont(self.context, part))
            ggml.mul_mat_set_prec(scores, ggml.Precision.F32)
            of_part = None if bias is None else self.rows(bias, first, count)
            weights = ggml.soft_max_ext(self.context, scores, of_part, 1 / math.sqrt(width), 0.0)
            mixed = ggml.mul_mat(self.context, values, weights)
            ggml.mul_mat_set_prec(mixed, ggml.Precision.F32)
            mixed = ggml.permute(self.context, mixed, 0, 2, 1, 3)
            parts.append(int(ggml.cont_2d(self.context, mixed, width * heads, count)))
        return self.concat_rows(*parts)

    def attention_input(self, x: Tensor) -> Tensor:
        """Keys or values for ``attention``: float32 on a CPU and if exact, float16 on a GPU.

        ggml's CUDA backend widens float16 again for each block of rows: 24 of 389 ms for an image of four tiles on an
        H200, with blocks of 128 MB.
        """
        if self._exact or self._allocator.device.is_cpu:
            return int(ggml.cont(self.context, x))
        return int(ggml.cast(self.context, x, Type.F16))


def read(tensor: Tensor, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Copy a contiguous float32 tensor from its device into an array of the given shape (numpy order).

    Raises:
        ComputeError: if the shape has another number of elements.
    """
    array = np.empty(shape, np.float32)
    if array.nbytes != ggml.nbytes(tensor):
        raise ComputeError(f"a tensor of {ggml.nbytes(tensor)} bytes was read as shape {shape}; this is a bug.")
    ggml.backend_tensor_get(tensor, ggml.address_of(array), 0, array.nbytes)
    return array


def read_rows(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Copy a contiguous float32 tensor from its device, as rows of its innermost extent."""
    width = int(ggml.struct_of(tensor).ne[0])
    return read(tensor, (int(ggml.nelements(tensor)) // width, width))


def write(tensor: Tensor, array: npt.NDArray[Any]) -> None:
    """Copy a C-contiguous array into a contiguous tensor of the same size.

    Raises:
        ComputeError: if the sizes differ.
    """
    if array.nbytes != ggml.nbytes(tensor) or not array.flags.c_contiguous:
        raise ComputeError(
            f"an array of {array.nbytes} bytes was written to a tensor of {ggml.nbytes(tensor)}; this is a bug."
        )
    ggml.backend_tensor_set(tensor, ggml.address_of(array), 0, array.nbytes)
