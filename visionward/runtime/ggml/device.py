"""The device of the vision tower and the cross-attention layers: a ggml backend and its buffers."""

import ctypes
from collections.abc import Callable
from typing import Any

from visionward.errors import ComputeError, NativeLibraryError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device_list import BackendDevice
from visionward.runtime.ggml.native import take_errors

_SetThreads = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)


class Device:
    """A ggml backend on one device. Close it after everything that is allocated on it.

    Args:
        device: the device.
        threads: CPU threads, for a CPU.

    Raises:
        NativeLibraryError: if the device cannot be initialized.
    """

    def __init__(self, device: BackendDevice, threads: int) -> None:
        handle = device.handle
        self.name = device.name
        self.is_cpu = device.type == ggml.DeviceType.CPU
        self.backend: int | None = ggml.dev_init(handle, None)
        if self.backend is None:
            raise NativeLibraryError(
                f"the device {self.name} could not be initialized: {take_errors() or 'no reason given'}."
            )
        self.buffer_type: int = ggml.backend_get_default_buffer_type(self.backend)
        set_threads = self._procedure(handle, b"ggml_backend_set_n_threads", _SetThreads)
        if set_threads is not None:
            set_threads(self.backend, threads)

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
        if status != ggml.STATUS_SUCCESS:
            raise ComputeError(
                f"{self.name} could not compute a graph (status {status}): {take_errors() or 'no reason given'}."
            )

    def close(self) -> None:
        """Free the backend; calling it again does nothing."""
        backend, self.backend = self.backend, None
        if backend is not None:
            ggml.backend_free(backend)
