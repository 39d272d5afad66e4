"""The device of the vision tower and the cross-attention layers: a ggml backend and its buffers."""

import ctypes
from collections.abc import Callable
from typing import Any

from visionward.errors import ComputeError, NativeLibraryError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.native import take_errors

_SetThreads = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)


def gpu_devices() -> list[int]:
    """Handles (ggml's) of the GPUs that the installed library can use, dedicated ones first."""
    handles = [ggml.dev_get(index) for index in range(ggml.dev_count())]
    wanted = (ggml.DeviceType.GPU, ggml.DeviceType.IGPU)
    return sorted((h for h in handles if ggml.dev_type(h) in wanted), key=lambda h: int(ggml.dev_type(h)))


def layers_on_gpu(wanted: int | None) -> int | None:
    """The decoder layers to put on the GPU: as wanted, where None is all of them; 0 without a GPU.

    Raises:
        NativeLibraryError: if layers are wanted, and the installed library has no GPU to put them on.
    """
    if gpu_devices():
        return wanted
    if wanted:
        raise NativeLibraryError(
            f"{wanted} layers cannot be put on a GPU (--gpu-layers): the installed llama-cpp-python found none. Leave "
            "the option out to compute on the CPU, or install a build for CUDA, Metal or Vulkan."
        )
    return 0


class Device:
    """A ggml backend on one device. Close it after everything that is allocated on it."""

    def __init__(self, handle: int, threads: int) -> None:
        self.name: str = ggml.dev_name(handle).decode()
        self.is_cpu: bool = ggml.dev_type(handle) == ggml.DeviceType.CPU
        self.backend: int | None = ggml.dev_init(handle, None)
        if self.backend is None:
            raise NativeLibraryError(
                f"the device {self.name} could not be initialized: {take_errors() or 'no reason given'}."
            )
        self.buffer_type: int = ggml.backend_get_default_buffer_type(self.backend)
        set_threads = self._procedure(handle, b"ggml_backend_set_n_threads", _SetThreads)
        if set_threads is not None:
            set_threads(self.backend, threads)

    @classmethod
    def choose(cls, *, gpu: bool, threads: int) -> "Device":
        """The first GPU if ``gpu`` is set and there is one, else the CPU."""
        gpus = gpu_devices() if gpu else []
        handle = gpus[0] if gpus else ggml.dev_by_type(ggml.DeviceType.CPU)
        if handle is None:
            raise NativeLibraryError("the installed llama.cpp library has no CPU backend; reinstall llama-cpp-python.")
        return cls(handle, threads)

    @staticmethod
    def _procedure(handle: int, name: bytes, prototype: Any) -> Callable[..., Any] | None:
        address = ggml.reg_get_proc_address(ggml.dev_backend_reg(handle), name)
        return prototype(address) if address else None

    def holds(self, buffer: int | None) -> bool:
        """Whether a buffer has this device's buffer type, so that its graphs can read and write it in place."""
        return bool(buffer) and ggml.buffer_get_type(buffer) == self.buffer_type

    def compute(self, graph: int) -> None:
        """Compute a graph and wait for it.

        Raises:
            ComputeError: if the backend reports a failure.
        """
        status = ggml.backend_graph_compute(self.backend, graph)
        ggml.backend_synchronize(self.backend)
        if status != ggml.STATUS_SUCCESS:
            raise ComputeError(
                f"{self.name} could not compute a graph (status {status}): {take_errors() or 'no reason given'}."
            )

    def close(self) -> None:
        """Free the backend; calling it again does nothing."""
        backend, self.backend = self.backend, None
        if backend is not None:
            ggml.backend_free(backend)
