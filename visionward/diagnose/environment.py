"""What measurements and bug reports depend on: versions, the llama.cpp library and its build, processor and memory."""

import ctypes
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from visionward.errors import VisionwardError
from visionward.machine.packages import installed_version
from visionward.machine.processor import Memory, Processor, physical_cores, read_memory, read_processor
from visionward.runtime.ggml.kernel_probe import kernel_files

# Names on the package index; import names differ from these.
PACKAGES = (
    *("visionward", "llama-cpp-python", "gguf", "numpy", "pillow", "pillow-heif", "jinja2", "tokenizers", "click"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
)
# What compilers leave in the files that they make (the section .comment of ELF).
_COMPILERS = (
    re.compile(rb"((?:[A-Za-z]+ )*clang version \d+[.\d]*)"),
    re.compile(rb"(GCC: \([^)\0]*\) \d+[.\d]*)"),
)
# In the order of ggml_backend_dev_type (ggml-backend.h).
_DEVICE_TYPES = ("CPU", "GPU", "integrated GPU", "accelerator", "several devices")


@dataclass(frozen=True)
class BackendDevice:
    """A device that ggml can compute on, with its memory in bytes."""

    name: str
    description: str
    backend: str
    kind: str
    memory_free: int
    memory_total: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU of either type."""
        return self.kind in _DEVICE_TYPES[1:3]


@dataclass(frozen=True)
class NativeLibrary:
    """The llama.cpp library.

    Attributes:
        problem: why it cannot be used, or None.
        path: its file, the home directory written ``~``.
        tested_versions: versions of llama-cpp-python that visionward was tested with.
        ggml_version, ggml_commit: of the sources that it was built from.
        compiler: of its kernels, if the file names it.
        build: the processor features that it was compiled for, and its options.
        devices: what it can compute on.
        default_device: the name of the one that is used unless another is named, if its memory suffices.
    """

    problem: str | None
    path: str | None = None
    tested_versions: tuple[str, ...] = ()
    ggml_version: str | None = None
    ggml_commit: str | None = None
    compiler: str | None = None
    build: str | None = None
    devices: tuple[BackendDevice, ...] = ()
    default_device: str | None = None


@dataclass(frozen=True)
class Environment:
    """What visionward runs on.

    Attributes:
        packages: name to version, None if a package is not installed.
        python, platform: versions.
        processor, memory: of the machine.
        physical_cores: those that this process may run on.
        library: the llama.cpp library.
    """

    packages: dict[str, str | None]
    python: str
    platform: str
    processor: Processor
    memory: Memory
    physical_cores: int
    library: NativeLibrary


def read_environment() -> Environment:
    """The environment of this process. A library that cannot be loaded is described by its problem alone."""
    try:
        library = native_library()
    except VisionwardError as error:
        library = NativeLibrary(problem=str(error))
    return Environment(
        packages={name: installed_version(name) for name in PACKAGES},
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        processor=read_processor(),
        memory=read_memory(),
        physical_cores=physical_cores(),
        library=library,
    )


def native_library() -> NativeLibrary:
    """The llama.cpp library: its build and what it can compute on.

    Raises:
        NativeLibraryError: if it cannot be loaded.
    """
    # Where the library cannot be loaded, the rest is still reported.
    from visionward.runtime.ggml import abi, native  # noqa: PLC0415
    from visionward.runtime.ggml.device_list import gpu_devices  # noqa: PLC0415

    try:
        abi.check()
        problem = None
    except VisionwardError as error:
        problem = str(error)
    compilers = {compiler for path in kernel_files() if (compiler := _compiler(path)) is not None}
    return NativeLibrary(
        problem=problem,
        path=_without_home(native.library_path()),
        tested_versions=native.TESTED_VERSIONS,
        ggml_version=_text_symbol("ggml_version"),
        ggml_commit=_text_symbol("ggml_commit"),
        compiler=", ".join(sorted(compilers)) or None,
        build=native.llama.llama_print_system_info().decode(errors="replace").strip(" |").replace(" = ", "="),
        devices=_devices(),
        default_device=next((device.name for device in gpu_devices()), "CPU"),
    )


def _text_symbol(name: str) -> str | None:
    from visionward.runtime.ggml.native import symbol  # noqa: PLC0415

    try:
        value = symbol(name, ctypes.c_char_p)()
    except VisionwardError:
        return None
    return value.decode(errors="replace") if value else None


def _devices() -> tuple[BackendDevice, ...]:
    from visionward.runtime.ggml.device_list import list_devices  # noqa: PLC0415

    return tuple(
        BackendDevice(
            name=device.name,
            description=device.description,
            backend=device.backend,
            kind=_DEVICE_TYPES[device.type] if device.type < len(_DEVICE_TYPES) else f"type {device.type}",
            memory_free=device.memory_free,
            memory_total=device.memory_total,
        )
        for device in list_devices()
    )


def _compiler(path: Path) -> str | None:
    """What a library was compiled with. Clang links gcc's start files, so its own name counts first."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    for pattern in _COMPILERS:
        if found := pattern.search(content):
            return found[1].decode(errors="replace").removeprefix("GCC: ").replace("(", "gcc (", 1)
    return None


def _without_home(path: Path) -> str:
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)
