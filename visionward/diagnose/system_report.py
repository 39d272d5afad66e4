"""What a bug report needs to say: versions, the native library and its build, the machine, and its kernels."""

import ctypes
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visionward.errors import VisionwardError
from visionward.machine.packages import installed_version
from visionward.machine.processor import Memory, Processor, physical_cores, read_memory, read_processor
from visionward.runtime.ggml.kernel_probe import KernelResult, kernel_files, probe_kernels

# Import names differ from these.
PACKAGES = (
    *("visionward", "llama-cpp-python", "gguf", "numpy", "pillow", "jinja2", "tokenizers", "click"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "openvino"),
)
# What compilers leave in the files that they make (the section .comment of ELF).
_COMPILERS = (
    re.compile(rb"((?:[A-Za-z]+ )*clang version \d+[.\d]*)"),
    re.compile(rb"(GCC: \([^)\0]*\) \d+[.\d]*)"),
)
_DEVICE_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator", "several devices")


@dataclass(frozen=True)
class BackendDevice:
    """A device that ggml can compute on, with its memory in bytes."""

    name: str
    description: str
    backend: str
    kind: str
    memory_free: int
    memory_total: int


@dataclass(frozen=True)
class NativeLibrary:
    """The llama.cpp library.

    Attributes:
        problem: why it cannot be used, or None.
        path: its file, the home directory written ``~``.
        tested_versions: versions of llama-cpp-python that visionward was tested with.
        ggml_version, ggml_commit: of the sources that it was built from.
        compiler: what its kernels were compiled with, where the file tells.
        build: the processor features that it was compiled for, and its options.
        devices: what it can compute on.
    """

    problem: str | None
    path: str | None = None
    tested_versions: tuple[str, ...] = ()
    ggml_version: str | None = None
    ggml_commit: str | None = None
    compiler: str | None = None
    build: str | None = None
    devices: tuple[BackendDevice, ...] = ()


@dataclass(frozen=True)
class SystemReport:
    """Everything that ``visionward doctor`` says.

    Attributes:
        packages: name to version, None where a package is not installed.
        python, platform: versions.
        processor, memory: of the machine.
        physical_cores: those that this process may run on.
        library: the llama.cpp library.
        kernels: what the probe found.
        advice: a sentence for each thing that is wrong or worth knowing.
    """

    packages: dict[str, str | None]
    python: str
    platform: str
    processor: Processor
    memory: Memory
    physical_cores: int
    library: NativeLibrary
    kernels: tuple[KernelResult, ...]
    advice: tuple[str, ...]


def system_report(*, fresh: bool = False, progress: Callable[[str], None] = lambda _text: None) -> SystemReport:
    """Look at everything.

    Args:
        fresh: probe the kernels again even if it was done before.
        progress: is told what takes a while.
    """
    processor = read_processor()
    cores = physical_cores()
    kernels: tuple[KernelResult, ...] = ()
    try:
        library = native_library()
        from visionward.runtime.ggml.kernel_product import buffer_types  # noqa: PLC0415 - needs the native library

        progress("probing the kernels ...")
        kernels = probe_kernels(tuple(buffer_types()), kernel_files(), processor.identity, threads=cores, fresh=fresh)
    except VisionwardError as error:
        library = NativeLibrary(problem=str(error))
    return SystemReport(
        packages=package_versions(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        processor=processor,
        memory=read_memory(),
        physical_cores=cores,
        library=library,
        kernels=kernels,
        advice=tuple(_advice(library, kernels, processor)),
    )


def package_versions() -> dict[str, str | None]:
    """The versions of visionward and of what it uses, None where a package is not installed."""
    return {name: installed_version(name) for name in PACKAGES}


def native_library() -> NativeLibrary:
    """The llama.cpp library: its build and what it can compute on.

    Raises:
        NativeLibraryError: if it cannot be loaded.
    """
    from visionward.runtime.ggml import abi, native  # noqa: PLC0415 - where it cannot be loaded, the rest is still reported

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
        build=native.llama.llama_print_system_info().decode(errors="replace").strip(" |"),
        devices=_devices(),
    )


def _text_symbol(name: str) -> str | None:
    from visionward.runtime.ggml.native import symbol  # noqa: PLC0415

    try:
        value = symbol(name, ctypes.c_char_p)()
    except VisionwardError:
        return None
    return value.decode(errors="replace") if value else None


def _devices() -> tuple[BackendDevice, ...]:
    from visionward.runtime.ggml import ggml  # noqa: PLC0415

    devices = []
    for index in range(ggml.dev_count()):
        handle = ggml.dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        kind = int(ggml.dev_type(handle))
        devices.append(
            BackendDevice(
                name=ggml.dev_name(handle).decode(errors="replace"),
                description=ggml.dev_description(handle).decode(errors="replace").strip(),
                backend=ggml.reg_name(ggml.dev_backend_reg(handle)).decode(errors="replace"),
                kind=_DEVICE_KINDS[kind] if kind < len(_DEVICE_KINDS) else f"kind {kind}",
                memory_free=free.value,
                memory_total=total.value,
            )
        )
    return tuple(devices)


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


def _advice(library: NativeLibrary, kernels: tuple[KernelResult, ...], processor: Processor) -> list[str]:
    advice = [] if library.problem is None else [library.problem]
    for result in kernels:
        if result.status in ("works", "unused"):
            continue
        what = {
            "crashes": f"crash the process ({result.detail})",
            "wrong": f"give wrong results ({result.detail})",
            "hangs": "do not come to an end",
        }.get(result.status, f"could not be tested ({result.detail})")
        if result.kernel == "plain":
            advice.append(
                f"The plain kernels {what}: visionward needs them. Reinstall llama-cpp-python for this machine, "
                "from source or from another wheel (docs/kernels.md)."
            )
            continue
        sentence = (
            f"The {result.kernel} kernels of this build {what}. visionward does not use them, so its verdicts are "
        )
        sentence += "not affected; other programs that use this library may be."
        if result.kernel == "AMX" and result.status == "crashes":
            if re.search(r"gcc .*\b12\.", library.compiler or ""):
                sentence += f" The library was compiled with {library.compiler}: gcc 12 is known for this."
            sentence += " In a build with clang they work (docs/kernels.md)."
        advice.append(sentence)
    if processor.architecture in {"x86_64", "AMD64"} and processor.features and "avx2" not in processor.features:
        advice.append("This processor has no AVX2: expect many minutes an image.")
    return advice
