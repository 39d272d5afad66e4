"""The doctor's report as text that can be pasted into a bug report."""

from collections.abc import Iterator

from visionward.cli.table import row
from visionward.diagnose.environment import Environment, NativeLibrary
from visionward.diagnose.provider_probe import ProviderResult
from visionward.diagnose.system_report import SystemReport
from visionward.quantities import size_text
from visionward.runtime.ggml.kernel_probe import KernelResult, amx_types

_STATUS = {
    "works": "works",
    "wrong": "GIVES WRONG RESULTS",
    "crashes": "CRASHES",
    "hangs": "HANGS",
    "unused": "not used",
    "untested": "could not be tested",
}
# What --kernels auto does, without and with AMX kernels that are faster.
_CHOICE = {
    False: "visionward uses plain memory-mapped weights; the other kinds matter only with --kernels packed.",
    True: "`serve`, `scan` and `bench` use AMX for large text files if memory holds a copy (--kernels auto).",
}


def report_lines(report: SystemReport) -> Iterator[str]:
    """The whole report."""
    yield "Versions"
    versions = {"Python": report.python, "platform": report.platform, **report.packages}
    for name, version in versions.items():
        yield _row(name, version or "not installed")
    yield ""
    yield "Optional"
    for extra in report.extras:
        yield _row(extra.name, f"{extra.purpose}: {'not ' if extra.missing else ''}installed")
        if extra.missing:
            yield f"    {extra.command}"
    for provider in report.onnx_providers:
        yield _row("on ONNX Runtime", _provider_text(provider))
    if report.openvino_devices:
        yield _row("on OpenVINO", ", ".join(report.openvino_devices))
    yield ""
    yield "Machine"
    yield from _machine_lines(report)
    yield ""
    yield "llama.cpp library"
    yield from _library_lines(report.library)
    yield ""
    yield "CPU kernels (small quantized matrix products, each kind in a process of its own)"
    if not report.kernels:
        yield "  not tested: the library cannot be loaded"
    for result in report.kernels:
        yield _kernel_line(result)
    yield f"  {_CHOICE[bool(amx_types(report.kernels))]}"
    if report.gpus:
        yield ""
        yield "GPU kernels (the same products)"
        yield from map(_kernel_line, report.gpus)
    yield ""
    yield "Advice"
    for sentence in report.advice or ("Nothing is wrong.",):
        yield f"  - {sentence}"


def _provider_text(result: ProviderResult) -> str:
    if result.problem is not None:
        return f"{result.provider} cannot be used"
    return result.provider if result.left is None else f"{result.provider}, which leaves {result.left}"


def _row(name: str, value: object) -> str:
    return row(f"  {name}", value)


def _machine_lines(report: Environment) -> Iterator[str]:
    processor, memory = report.processor, report.memory
    usable = "" if processor.usable_cores == processor.logical_cores else f", {processor.usable_cores} usable"
    features = "unknown" if processor.features is None else " ".join(processor.features) or "none of note"
    yield _row("processor", f"{processor.model} ({processor.architecture})")
    yield _row("cores", f"{report.physical_cores} physical, {processor.logical_cores} logical{usable}")
    yield _row("features", features)
    amounts = {"total": memory.total, "available": memory.available, "limit of this container": memory.limit}
    known = ", ".join(f"{size_text(amount)} {name}" for name, amount in amounts.items() if amount is not None)
    yield _row("memory", known or "unknown")


def _library_lines(library: NativeLibrary) -> Iterator[str]:
    if library.path is None:
        yield "  could not be loaded"
        return
    tested = "the tested version" if library.problem is None else f"tested: {', '.join(library.tested_versions)}"
    yield _row("file", f"{library.path} ({tested})")
    yield _row("ggml", f"{library.ggml_version or 'unknown'}, commit {library.ggml_commit or 'unknown'}")
    yield _row("compiler", library.compiler or "unknown")
    yield _row("build", library.build)
    for device in library.devices:
        memory = f"{size_text(device.memory_total)}, {size_text(device.memory_free)} free"
        what = f"{device.kind}, backend {device.backend}, {memory}"
        yield _row("device", f"{device.name}: {device.description} ({what})")
    if library.default_device is not None:
        yield _row("used", f"{library.default_device}, unless --device names another")


def _kernel_line(result: KernelResult) -> str:
    detail = f": {result.detail}" if result.detail else ""
    weights = [
        f"{weight.weight_type} {weight.gflops:.0f}"
        for weight in result.weights
        if weight.error is not None and weight.gflops is not None
    ]
    speeds = f" (GFLOP/s per thread: {', '.join(weights)})" if weights else ""
    return _row(result.kernel, f"{_STATUS[result.status]}{detail}{speeds}")
