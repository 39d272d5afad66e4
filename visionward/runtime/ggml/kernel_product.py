"""A small quantized matrix product with one kind of kernel, which the kernel probe runs in a child process.

The buffer type that the weights are allocated in selects the kernels of ggml's CPU backend. The kernels of a GPU go by
the name of the device.
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, NativeLibraryError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.device_list import cpu_device, find_device
from visionward.runtime.ggml.graph import Allocator, Graph, read
from visionward.runtime.ggml.kernel_probe import PLAIN

# The types of most matrices in quantized files; the others have no AMX kernels but Q4_1.
WEIGHT_TYPES = tuple(gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q4_0"))

# As many rows as a prompt has use the kernels for matrices, a single row those for vectors.
WIDTH, OUTPUTS, ROWS = 2048, 1024, (96, 1)
# Duration of the speed measurement, in CPU time of the thread: other programs would distort wall time.
REPEAT_S = 0.1
# Stands for the error of a result that is not finite; JSON has no infinity.
ERROR_NOT_FINITE = 1e30

_ExtraBuffers = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


@dataclass(frozen=True)
class Product:
    """The product with one weight type.

    Attributes:
        weight_type: its name, ``Q4_K`` and so on.
        error: relative error of the product against float32 (root mean square); None if the kernels do not support
            this type.
        gflops: GFLOP/s of one thread with as many rows as a prompt has; None on a GPU, which such a product does not
            occupy.
    """

    weight_type: str
    error: float | None
    gflops: float | None


def buffer_types() -> dict[str, int]:
    """Kernel name to ggml's handle of the buffer type that selects it: plain and those that the library adds."""
    device = ggml.dev_by_type(ggml.DeviceType.CPU)
    if device is None:
        raise NativeLibraryError("the installed llama.cpp library has no CPU backend; reinstall llama-cpp-python.")
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
    """Compute with each weight type in turn. A broken kernel crashes the process.

    Args:
        kernel: a name of ``buffer_types``, or that of a GPU.
        threads: CPU threads.
    """
    on_cpu = buffer_types()
    if kernel in on_cpu:
        # One thread measures the kernel even if other programs run; a guard uses several.
        devices = [Device(cpu_device(), count) for count in (1, threads)]
    else:
        devices = [Device(find_device(kernel), threads)]
    allocators = [Allocator(device) for device in devices]
    try:
        for dtype in WEIGHT_TYPES:
            yield _product(allocators, on_cpu.get(kernel, devices[0].buffer_type), dtype)
    finally:
        for allocator in allocators:
            allocator.close()
            allocator.device.close()


def _product(allocators: Sequence[Allocator], buffer_type: int, dtype: gguf.GGMLQuantizationType) -> Product:
    random = np.random.default_rng(1)
    stored = _quantized(random.standard_normal((OUTPUTS, WIDTH), np.float32), dtype)
    inputs = random.standard_normal((max(ROWS), WIDTH), np.float32)
    expected = inputs.astype(np.float64) @ gguf.dequantize(stored, dtype).astype(np.float64).T
    context = ggml.init(ggml.InitParams(2 * ggml.tensor_overhead(), None, no_alloc=True))
    buffer = None
    try:
        tensor = ggml.new_tensor(context, int(dtype), 2, ggml.dimensions(WIDTH, OUTPUTS))
        buffer = ggml.backend_alloc_ctx_tensors_from_buft(context, buffer_type)
        if buffer is None:
            raise ComputeError("not enough memory for a small matrix.")
        if not _supported(allocators[0], tensor):
            return Product(dtype.name, None, None)
        ggml.backend_tensor_set(tensor, ggml.address_of(stored), 0, stored.nbytes)
        speed = _speed(allocators[0], tensor, inputs) if allocators[0].device.is_cpu else None
        errors = []
        for allocator in allocators:
            for rows in ROWS:
                result = _computed(allocator, tensor, inputs[:rows])
                off = np.square(result - expected[:rows]).mean() / np.square(expected[:rows]).mean()
                errors.append(float(np.sqrt(off)))
    finally:
        if buffer is not None:
            ggml.buffer_free(buffer)
        ggml.free(context)
    # NaN is a wrong result, and max() would drop it.
    error = max(errors) if np.isfinite(errors).all() else ERROR_NOT_FINITE
    return Product(dtype.name, error, speed)


def _supported(allocator: Allocator, weights: ggml.Tensor) -> bool:
    with Graph(allocator) as graph:
        product = graph.linear(weights, graph.input(np.zeros((ROWS[0], WIDTH), np.float32)))
        return bool(ggml.backend_supports_op(allocator.device.backend, product))


def _computed(allocator: Allocator, weights: ggml.Tensor, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with Graph(allocator) as graph:
        product = graph.linear(weights, graph.input(inputs))
        graph.output(product)
        graph.compute()
        return read(product, (len(inputs), OUTPUTS))


def _speed(allocator: Allocator, weights: ggml.Tensor, inputs: npt.NDArray[np.float32]) -> float:
    """GFLOP/s on the calling thread."""
    count, start = 0, time.thread_time()
    # Some clocks have a resolution of 1/64 s.
    while (spent := time.thread_time() - start) < REPEAT_S:
        _computed(allocator, weights, inputs)
        count += 1
    return 2 * inputs.size * OUTPUTS * count / spent / 1e9


def _quantized(values: npt.NDArray[np.float32], dtype: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """Rows as ggml quantizes them (gguf-py cannot write every type)."""
    rows, width = values.shape
    stored = np.empty((rows, ggml.row_size(int(dtype), width)), np.uint8)
    ggml.quantize_chunk(int(dtype), ggml.address_of(values), ggml.address_of(stored), 0, rows, width, None)
    return stored
