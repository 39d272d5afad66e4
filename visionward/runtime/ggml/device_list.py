"""The devices that the installed library can compute on, and their memory."""

import ctypes
from dataclasses import dataclass

from visionward.errors import NativeLibraryError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.ggml import DeviceType


@dataclass(frozen=True)
class BackendDevice:
    """A device of ggml.

    Attributes:
        handle: ggml's address of it.
        name: such as ``CPU``, ``CUDA0`` or ``Vulkan1``.
        description: such as the name of the graphics card.
        backend: the part of ggml that drives it.
        type: its type.
        memory_free: bytes.
        memory_total: bytes; 0 if the device does not tell.
    """

    handle: int
    name: str
    description: str
    backend: str
    type: DeviceType | int
    memory_free: int
    memory_total: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, dedicated or integrated."""
        return self.type in (DeviceType.GPU, DeviceType.IGPU)


def list_devices() -> list[BackendDevice]:
    """Every device, in ggml's order."""
    return [_describe(ggml.dev_get(index)) for index in range(ggml.dev_count())]


def gpu_devices() -> list[BackendDevice]:
    """The GPUs, the best first: dedicated before integrated ones, and then those with more free memory."""
    gpus = [device for device in list_devices() if device.is_gpu]
    return sorted(gpus, key=lambda device: (int(device.type), -device.memory_free))


def cpu_device() -> BackendDevice:
    """The CPU.

    Raises:
        NativeLibraryError: if the library cannot compute on it.
    """
    handle = ggml.dev_by_type(DeviceType.CPU)
    if handle is None:
        raise NativeLibraryError("the installed llama.cpp library has no CPU backend; reinstall llama-cpp-python.")
    return _describe(handle)


def find_device(name: str) -> BackendDevice:
    """The CPU or a GPU, by its name. Case does not matter.

    Raises:
        NativeLibraryError: if there is none with that name.
    """
    known = [cpu_device(), *gpu_devices()]
    for device in known:
        if device.name.lower() == name.strip().lower():
            return device
    raise NativeLibraryError(
        f"there is no device {name!r}: the installed llama-cpp-python can compute on "
        f"{', '.join(device.name for device in known)}. For a GPU that is missing here, install a build for it "
        "(docs/gpu.md)."
    )


def free_memory(handle: int) -> tuple[int, int]:
    """Free and total bytes of a device."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _describe(handle: int) -> BackendDevice:
    free, total = free_memory(handle)
    number = int(ggml.dev_type(handle))
    return BackendDevice(
        handle=handle,
        name=ggml.dev_name(handle).decode(errors="replace"),
        description=ggml.dev_description(handle).decode(errors="replace").strip(),
        backend=ggml.reg_name(ggml.dev_backend_reg(handle)).decode(errors="replace"),
        type=DeviceType(number) if number in set(DeviceType) else number,
        memory_free=free,
        memory_total=total,
    )
