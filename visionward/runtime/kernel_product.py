"""A small quantized matrix product with one kind of kernel: what the kernel probe runs in a child process.

The weights lie in a buffer type; ggml's CPU backend takes the kernels that go with it.
"""

import ctypes
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from visionward.runtime import ggml
from visionward.runtime.device import Device
from visionward.runtime.errors import ComputeError, NativeLibraryError
from visionward.runtime.graph import Allocator, Graph, read

PLAIN = "plain"
WEIGHT_TYPES = (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_K)

# A prompt's worth of rows takes the kernels for matrices, a single row those for vectors.
WIDTH, OUTPUTS, ROWS = 2048, 1024, (96, 1)
# The best of several counts: the first pays for the caches, and others may be disturbed.
LEAST_REPEATS, REPEAT_S = 3, 0.2

_ExtraBuffers = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


@dataclass(frozen=True)
class Product:
    """What came of one weight type.

    Attributes:
        weight_type: its name, ``Q4_K`` and so on.
        error: relative error of the product against float32 (root mean square); None where the kernels do not take
            this type.
        gflops: speed of the product with a prompt's worth of rows.
    """

    weight_type: str
    error: float | None
    gflops: float | None


def buffer_types() -> dict[str, int]:
    """Kernel name to ggml's handle of the buffer type that selects it: plain ones and what the library adds."""
    device = ggml.dev_by_type(ggml.DeviceType.CPU)
    if device is None:
        raise NativeLibraryError("the installed llama.cpp library has no CPU backend: reinstall llama-cpp-python.")
    found = {PLAIN: int(ggml.dev_buffer_type(device))}
    address = ggml.reg_get_proc_address(ggml.dev_backend_reg(device), b"ggml_backend_dev_get_extra_bufts")
    if address:
        extra = _ExtraBuffers(address)(device)
        index = 0
        while extra and extra[index]:
            found[ggml.buft_name(extra[index]).decode()] = int(extra[index])
            index += 1
    return found


def products(kernel: str, threads: int) -> Iterator[Product]:
    """Compute with each weight type in turn; where a kernel is broken, this kills the process."""
    device = Device.choose(gpu=False, threads=threads)
    allocator = Allocator(device)
    try:
        for kind in WEIGHT_TYPES:
            yield _product(device, allocator, buffer_types()[kernel], kind)
    finally:
        allocator.close()
        device.close()


def _product(device: Device, allocator: Allocator, buffer_type: int, kind: gguf.GGMLQuantizationType) -> Product:
    random = np.random.default_rng(1)
    stored = _quantized(random.standard_normal((OUTPUTS, WIDTH), np.float32), kind)
    weights = gguf.dequantize(stored, kind)
    context = ggml.init(ggml.InitParams(2 * ggml.tensor_overhead(), None, no_alloc=True))
    buffer = None
    try:
        tensor = ggml.new_tensor(context, int(kind), 2, ggml.dimensions(WIDTH, OUTPUTS))
        buffer = ggml.backend_alloc_ctx_tensors_from_buft(context, buffer_type)
        if buffer is None:
            raise ComputeError("there is not enough memory for a small matrix.")
        errors, best = [], math.inf
        for rows in ROWS:
            inputs = random.standard_normal((rows, WIDTH), np.float32)
            with Graph(allocator) as graph:
                product = graph.linear(tensor, graph.input(inputs))
                graph.output(product)
                if not ggml.backend_supports_op(device.backend, product):
                    return Product(kind.name, None, None)
                if rows == ROWS[0]:
                    ggml.backend_tensor_set(tensor, ggml.address_of(stored), 0, stored.nbytes)
                    best = _best_time(graph)
                else:
                    graph.compute()
                expected = inputs.astype(np.float64) @ weights.astype(np.float64).T
                result = read(product, (rows, OUTPUTS))
            errors.append(float(np.sqrt(np.square(result - expected).mean() / np.square(expected).mean())))
    finally:
        if buffer is not None:
            ggml.buffer_free(buffer)
        ggml.free(context)
    # A NaN is a wrong result: max() would lose it.
    error = max(errors) if all(np.isfinite(errors)) else float("inf")
    return Product(kind.name, error, 2 * WIDTH * OUTPUTS * ROWS[0] / best / 1e9)


def _best_time(graph: Graph) -> float:
    times: list[float] = []
    while len(times) < LEAST_REPEATS or sum(times) < REPEAT_S:
        start = time.perf_counter()
        graph.compute()
        times.append(time.perf_counter() - start)
    return min(times)


def _quantized(values: npt.NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """Rows as ggml quantizes them (gguf-py cannot write every type)."""
    rows, width = values.shape
    stored = np.empty((rows, ggml.row_size(int(kind), width)), np.uint8)
    ggml.quantize_chunk(int(kind), ggml.address_of(values), ggml.address_of(stored), 0, rows, width, None)
    return stored
