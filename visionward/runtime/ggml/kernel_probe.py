"""Which of ggml's CPU kernels work on this machine: each is tried in a child process, which may crash.

ggml's AMX kernels kill the process in libraries that gcc 12 compiled (docs/kernels.md). What was found is remembered
for the library's file and the processor.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_dir

from visionward.errors import VisionwardError
from visionward.machine.python_process import PythonProcess, Sender

Status = Literal["works", "wrong", "crashes", "hangs", "unused", "untested"]

# Quantized activations cost some half a percent.
LARGEST_ERROR = 0.03
TIMEOUT_S = 60.0
_EXIT_S = 5.0
# Part of what is remembered: raise it when the probe itself changes.
PROBE_VERSION = 1


@dataclass(frozen=True)
class WeightResult:
    """One weight type: relative error against float32 and speed; None where the kernels do not take it."""

    weight_type: str
    error: float | None
    gflops: float | None


@dataclass(frozen=True)
class KernelResult:
    """What the probe found of one kind of kernel.

    Attributes:
        kernel: ``plain``, or ggml's name of the buffer type that selects it: ``CPU_REPACK``, ``AMX``, ...
        status: ``works``; ``wrong`` results; ``crashes`` or ``hangs`` the process; ``unused``: takes none of the
            weight types here; ``untested``: the probe itself failed.
        detail: how, in words.
        weights: the weight types that were computed before it ended.
    """

    kernel: str
    status: Status
    detail: str
    weights: tuple[WeightResult, ...]


def probe_kernels(
    kernels: Sequence[str], library_files: Sequence[Path], processor: str, *, threads: int, fresh: bool = False
) -> tuple[KernelResult, ...]:
    """Try kernels, or recall what was found before.

    Args:
        kernels: names, as ``kernel_product.buffer_types`` has them.
        library_files: the files that hold the kernels.
        processor: model and features of the processor.
        threads: CPU threads.
        fresh: try again even if it was done before.
    """
    memory = _memory_file(library_files, processor, kernels)
    remembered = None if fresh else _recall(memory, kernels)
    if remembered is not None:
        return remembered
    results = tuple(probe_kernel(kernel, threads) for kernel in kernels)
    if all(result.status not in ("hangs", "untested") for result in results):
        _remember(memory, results)
    return results


def kernel_files() -> list[Path]:
    """The files that hold the CPU kernels: one, or one for each generation of processors, or all in the library."""
    from visionward.runtime.ggml.native import library_path  # noqa: PLC0415 - the probe itself needs no library

    library = library_path()
    # Wheels hold copies under versioned names; one of each is enough.
    files = [path for path in library.parent.glob("*ggml-cpu*") if path.suffix in {".so", ".dylib", ".dll"}]
    return files or [library]


def probe_kernel(kernel: str, threads: int, *, timeout_s: float = TIMEOUT_S) -> KernelResult:
    """Try one kind of kernel in a child process."""
    weights: list[WeightResult] = []
    try:
        child = PythonProcess(_compute, (kernel, threads), subprocess.DEVNULL)
    except OSError as error:
        return KernelResult(kernel, "untested", f"no child process could be started ({error})", ())
    try:
        failure = _receive(child, weights, time.monotonic() + timeout_s)
        exit_code = child.wait(0 if failure == "timeout" else _EXIT_S)
    finally:
        child.close()
    return _judge(kernel, weights, failure, exit_code)


def _receive(child: PythonProcess, weights: list[WeightResult], deadline: float) -> str | None:
    """Collect what the child sends until it ends; None if it said that it finished, else what went wrong."""
    while True:
        try:
            message = child.receive(deadline - time.monotonic())
        except TimeoutError:
            return "timeout"
        except EOFError:
            return "ended"
        if not isinstance(message, WeightResult):
            return None if message is None else str(message)
        weights.append(message)


def _judge(kernel: str, weights: Sequence[WeightResult], failure: str | None, exit_code: int | None) -> KernelResult:
    done = tuple(weights)
    computed = [weight for weight in done if weight.error is not None]
    wrong = [weight for weight in computed if weight.error is not None and weight.error > LARGEST_ERROR]
    if failure == "timeout":
        return KernelResult(kernel, "hangs", "did not finish in time", done)
    if failure == "ended":
        return KernelResult(kernel, *_end(exit_code), done)
    if failure is not None:
        return KernelResult(kernel, "untested", failure, done)
    if wrong:
        found = ", ".join(f"{weight.weight_type} is off by {weight.error:.2g}" for weight in wrong)
        return KernelResult(kernel, "wrong", found, done)
    if not computed:
        return KernelResult(kernel, "unused", "takes none of the tested weight types on this processor", done)
    return KernelResult(kernel, "works", "", done)


def _end(exit_code: int | None) -> tuple[Status, str]:
    """What an exit code says of a child that ended before it had finished."""
    if exit_code is not None and exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        return "crashes", f"{name} (exit {128 - exit_code})"
    if exit_code is not None and exit_code > 0x7FFF_FFFF:
        return "crashes", f"exit 0x{exit_code:08X}"
    # A Python child that cannot even start exits with a small code.
    return "untested", f"the child process ended with {exit_code}"


def _compute(kernel: str, threads: int, sender: Sender) -> None:
    """The child process: send each weight type's result, then None; or a text that says why not."""
    try:
        from visionward.runtime.ggml.kernel_product import products  # noqa: PLC0415 - the parent needs no library for this

        for product in products(kernel, threads):
            sender.send(WeightResult(product.weight_type, product.error, product.gflops))
        sender.send(None)
    except (VisionwardError, KeyError) as error:
        sender.send(str(error))


def _memory_file(library_files: Sequence[Path], processor: str, kernels: Sequence[str]) -> Path | None:
    """Where results for these libraries on this processor are kept; None where they cannot be told apart."""
    digest = hashlib.sha256(f"{PROBE_VERSION}\0{processor}\0{','.join(kernels)}\0".encode())
    try:
        for path in sorted(library_files):
            digest.update(path.read_bytes())
    except OSError:
        return None
    return Path(user_cache_dir("visionward")) / "kernels" / f"{digest.hexdigest()[:32]}.json"


def _recall(memory: Path | None, kernels: Sequence[str]) -> tuple[KernelResult, ...] | None:
    if memory is None:
        return None
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
        results = tuple(
            KernelResult(
                kernel=str(entry["kernel"]),
                status=_known_status(entry["status"]),
                detail=str(entry["detail"]),
                weights=tuple(WeightResult(**weight) for weight in entry["weights"]),
            )
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return results if [result.kernel for result in results] == list(kernels) else None


def _known_status(value: object) -> Status:
    known: tuple[Status, ...] = ("works", "wrong", "crashes", "unused")
    for status in known:
        if value == status:
            return status
    raise ValueError(f"unknown status {value!r}")


def _remember(memory: Path | None, results: Sequence[KernelResult]) -> None:
    """Keep results for the next time; a cache that cannot be written is no loss."""
    if memory is None:
        return
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=memory.parent, prefix=".kernels-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump([asdict(result) for result in results], file)
        Path(aside).replace(memory)
