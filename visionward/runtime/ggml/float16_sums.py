"""Whether ggml's CPU kernels add up products of float16 numbers in float32."""

from functools import cache

import numpy as np

from visionward.errors import ComputeError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device_list import cpu_device
from visionward.runtime.ggml.ggml import Type

# A block of rows takes the kernel for matrices, a single row that for vectors.
_WIDTH, _OUTPUTS, _ROWS = 64, 8, (8, 1)
# Its square, 65536, is infinite in float16.
_VALUE = 256


@cache
def sums_float16_in_float32() -> bool:
    """Whether a product with float16 weights has a float32 sum on the CPU.

    On Arm with FEAT_FP16 ggml adds up in float16 (ggml-cpu/llamafile/sgemm.cpp, and GGML_F16_VEC in simd-mappings.h),
    whatever precision is requested. Computing a sum that only float32 holds shows it on any system.

    Raises:
        ComputeError: if the product cannot be computed.
    """
    return all(np.array_equal(_sums(rows), np.full((rows, _OUTPUTS), _WIDTH * _VALUE**2)) for rows in _ROWS)


def _sums(rows: int) -> np.ndarray:
    weights = np.full((_OUTPUTS, _WIDTH), _VALUE, np.float16)
    inputs = np.full((rows, _WIDTH), _VALUE, np.float32)
    found = np.empty((rows, _OUTPUTS), np.float32)
    backend = ggml.dev_init(cpu_device().handle, None)
    context = ggml.init(ggml.InitParams(8 * ggml.tensor_overhead() + ggml.graph_overhead_custom(8, False), None, True))
    weight = ggml.new_tensor(context, Type.F16, 2, ggml.dimensions(_WIDTH, _OUTPUTS))
    x = ggml.new_tensor(context, Type.F32, 2, ggml.dimensions(_WIDTH, rows))
    product = ggml.mul_mat(context, weight, x)
    ggml.mul_mat_set_prec(product, ggml.Precision.F32)
    graph = ggml.new_graph_custom(context, 8, False)
    ggml.build_forward_expand(graph, product)
    buffer = ggml.backend_alloc_ctx_tensors(context, backend)
    try:
        ggml.backend_tensor_set(weight, ggml.address_of(weights), 0, weights.nbytes)
        ggml.backend_tensor_set(x, ggml.address_of(inputs), 0, inputs.nbytes)
        if ggml.backend_graph_compute(backend, graph) != ggml.STATUS_SUCCESS:
            raise ComputeError("the CPU could not compute a small matrix product; reinstall llama-cpp-python.")
        ggml.backend_tensor_get(product, ggml.address_of(found), 0, found.nbytes)
    finally:
        ggml.buffer_free(buffer)
        ggml.free(context)
        ggml.backend_free(backend)
    return found
