"""What a bug report needs: the environment, which kernels work, what is missing, and what to do about it."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from visionward.diagnose.environment import Environment, NativeLibrary, read_environment
from visionward.diagnose.provider_probe import ProviderResult, probe_provider
from visionward.errors import VisionwardError
from visionward.machine.extras import EXTRAS
from visionward.machine.packages import installed_version, requirements
from visionward.machine.shell import pip_command
from visionward.runtime.ggml.kernel_probe import AMX, PLAIN, KernelResult, probe_kernel
from visionward.runtime.vision.onnxruntime_session import gpu_providers
from visionward.runtime.vision.openvino_session import openvino_devices

# What each extra is good for.
_PURPOSES = {
    "compare": "`visionward compare`",
    "openvino": "a faster vision tower on processors with AMX and AMD's from Zen 4 on",
    "heif": "HEIC photos",
}


@dataclass(frozen=True)
class Extra:
    """An optional part of visionward.

    Attributes:
        name: of the extra.
        purpose: what it is good for.
        missing: its packages that are not installed.
        command: installs it.
    """

    name: str
    purpose: str
    missing: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class SystemReport(Environment):
    """The report of ``visionward doctor``.

    Attributes:
        extras: the optional parts.
        kernels: what the probe found about the CPU's kernels.
        gpus: what it found about those of each GPU.
        onnx_providers: what each of ONNX Runtime's providers for GPUs computes of a vision tower.
        openvino_devices: what OpenVINO can compute on.
        advice: a sentence for each thing that is wrong, missing or worth knowing.
    """

    extras: tuple[Extra, ...]
    kernels: tuple[KernelResult, ...]
    gpus: tuple[KernelResult, ...]
    onnx_providers: tuple[ProviderResult, ...]
    openvino_devices: tuple[str, ...]
    advice: tuple[str, ...]


def system_report(*, fresh: bool = False, progress: Callable[[str], None] = lambda _text: None) -> SystemReport:
    """Read the environment and test the kernels.

    Args:
        fresh: test the kernels again even if it was done before.
        progress: is told what takes a while.
    """
    environment = read_environment()
    kernels: tuple[KernelResult, ...] = ()
    advice = [] if environment.library.problem is None else [environment.library.problem]
    if environment.library.path is not None:
        progress("testing the kernels ...")
        try:
            from visionward.runtime.ggml.packed_kernels import probe_library  # noqa: PLC0415 - needs the native library

            kernels = probe_library(environment.physical_cores, fresh=fresh)
        except VisionwardError as error:
            advice.append(str(error))
    # Not remembered: another driver may make another result.
    names = [device.name for device in environment.library.devices if device.is_gpu]
    gpus = tuple(probe_kernel(name, environment.physical_cores) for name in names)
    providers = tuple(probe_provider(name) for name in gpu_providers())
    advice += [
        *_missing_requirements(),
        *_about_kernels(environment.library, kernels),
        *_about_gpus(gpus),
        *(f"{result.provider} cannot be used: {result.problem}" for result in providers if result.problem),
        *_about_speed(environment),
    ]
    return SystemReport(
        **{name: getattr(environment, name) for name in Environment.__dataclass_fields__},
        extras=tuple(_extras()),
        kernels=kernels,
        gpus=gpus,
        onnx_providers=providers,
        openvino_devices=openvino_devices(),
        advice=tuple(advice),
    )


def _extras() -> Iterator[Extra]:
    for name, purpose in _PURPOSES.items():
        modules = [module for module, (_, extra) in EXTRAS.items() if extra == name]
        missing = tuple(EXTRAS[module][0] for module in modules if find_spec(module) is None)
        if modules:
            yield Extra(name, purpose, missing, pip_command("install", f"visionward[{name}]"))


def _missing_requirements() -> Iterator[str]:
    for name, requirement in requirements("visionward").items():
        if installed_version(name) is not None:
            continue
        if name == "onnxruntime" and find_spec("onnxruntime") is not None:
            continue  # a build for GPUs has another name
        yield f"{name} is not installed, and visionward needs it: `{pip_command('install', requirement)}`."


def _failure(result: KernelResult) -> str | None:
    """What kernels do wrong, as a predicate; None for kernels that work or are unused."""
    if not result.fails:
        return None
    return {
        "crashes": f"crash the process ({result.detail})",
        "wrong": f"give wrong results ({result.detail})",
        "hangs": "do not come to an end",
    }.get(result.status, f"could not be tested ({result.detail})")


def _about_gpus(gpus: tuple[KernelResult, ...]) -> Iterator[str]:
    for result in gpus:
        if what := _failure(result):
            yield (
                f"The kernels of {result.kernel} {what}: use --device CPU or another GPU, or install another driver or "
                "another build of llama-cpp-python (docs/gpu.md)."
            )


def _about_kernels(library: NativeLibrary, kernels: tuple[KernelResult, ...]) -> Iterator[str]:
    for result in kernels:
        what = _failure(result)
        if what is None:
            continue
        if result.kernel == PLAIN:
            yield (
                f"The plain kernels {what}: visionward needs them. Reinstall llama-cpp-python for this machine, "
                "from source or from another wheel (docs/kernels.md)."
            )
            continue
        sentence = (
            f"The {result.kernel} kernels of this build {what}. visionward does not use them, so its verdicts are "
            "not affected; other programs that use this library may be."
        )
        if result.kernel == AMX and result.status == "crashes":
            if re.search(r"gcc .*\b12\.", library.compiler or ""):
                sentence += f" The library was compiled with {library.compiler}: gcc 12 is known for this."
            sentence += " In a build with clang they work (docs/kernels.md)."
        yield sentence


def _about_speed(environment: Environment) -> Iterator[str]:
    processor, library = environment.processor, environment.library
    if processor.architecture in {"x86_64", "AMD64"} and processor.features and "avx2" not in processor.features:
        yield "This processor has no AVX2: expect many minutes per image."
    if library.path is not None and not any(device.is_gpu for device in library.devices) and shutil.which("nvidia-smi"):
        command = pip_command(
            *("install", "--force-reinstall", "--no-deps", "--no-cache-dir"),
            f"llama-cpp-python=={library.tested_versions[-1]}",
        )
        yield (
            "This machine has an NVIDIA driver, and the installed llama-cpp-python is built for CPUs alone. To build "
            f"it for the GPU, install the CUDA toolkit, then: `CMAKE_ARGS=-DGGML_CUDA=on {command}`."
        )
