"""Which of ggml's CPU kernels work on this machine. Each is tried in a child process, which may crash.

ggml's AMX kernels crash the process in libraries that gcc 12 compiled (docs/kernels.md). Results are cached by library
file and processor.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from visionward.errors import VisionwardError
from visionward.machine.python_process import PythonProcess, Sender, exit_text
from visionward.paths import cache_folder

Status = Literal["works", "wrong", "crashes", "hangs", "unused", "untested"]

# ``plain``, and ggml's name of the AMX buffer type.
PLAIN, AMX = "plain", "AMX"

# Quantized activations account for about 0.5 %.
MAX_ERROR = 0.03
TIMEOUT_S = 60.0
_EXIT_S = 5.0
# The folder of the results in the cache.
KERNELS_FOLDER = "kernels"
# Part of the cache key: increase it when the probe itself changes.
PROBE_VERSION = 2


@dataclass(frozen=True)
class WeightResult:
    """One weight type: relative error against float32, and speed; both None if the kernels do not support it."""

    weight_type: str
    error: float | None
    gflops: float | None


@dataclass(frozen=True)
class KernelResult:
    """The result of the probe for one kind of kernel.

    Attributes:
        kernel: ``plain``, or ggml's name of the buffer type that selects it: ``CPU_REPACK``, ``AMX``, ...
        status: ``works``; ``wrong`` results; ``crashes`` or ``hangs`` the process; ``unused``: supports none of the
            weight types here; ``untested``: the probe itself failed.
        detail: the reason, as a phrase.
        weights: the weight types that were computed before it ended.
    """

    kernel: str
    status: Status
    detail: str
    weights: tuple[WeightResult, ...]

    @property
    def fails(self) -> bool:
        """Whether they do not work, or may not."""
        return self.status not in ("works", "unused")

    @property
    def speeds(self) -> dict[str, float]:
        """GFLOP/s of one thread by weight type."""
        return {weight.weight_type: weight.gflops for weight in self.weights if weight.gflops is not None}


def probe_kernels(
    kernels: Sequence[str], library_files: Sequence[Path], processor: str, *, threads: int, fresh: bool = False
) -> tuple[KernelResult, ...]:
    """Try kernels, or take the cached results.

    Args:
        kernels: names from ``kernel_product.buffer_types``.
        library_files: the files that hold the kernels.
        processor: model and features of the processor.
        threads: CPU threads.
        fresh: ignore cached results.
    """
    cache_file = _cache_file(library_files, processor, kernels)
    cached = None if fresh else _read_cache(cache_file, kernels)
    if cached is not None:
        return cached
    results = tuple(probe_kernel(kernel, threads) for kernel in kernels)
    if all(result.status not in ("hangs", "untested") for result in results):
        _write_cache(cache_file, results)
    return results


def amx_types(results: Sequence[KernelResult]) -> frozenset[str]:
    """The weight types for which AMX is faster than the plain kernels; none if AMX or any other kernels fail.

    A type that AMX does not support may be packed for other kernels, so those have to work too.
    """
    by_kernel = {result.kernel: result for result in results}
    if AMX not in by_kernel or any(result.fails for result in results):
        return frozenset()
    plain = by_kernel[PLAIN].speeds
    return frozenset(name for name, speed in by_kernel[AMX].speeds.items() if speed > plain.get(name, 0))


def kernel_files() -> list[Path]:
    """The files that contain the CPU kernels: one, one per processor generation, or the library itself."""
    from visionward.runtime.ggml.native import library_path  # noqa: PLC0415 - the probe itself needs no library

    library = library_path()
    # Wheels contain copies under versioned names; one of each is enough.
    files = [path for path in library.parent.glob("*ggml-cpu*") if path.suffix in {".so", ".dylib", ".dll"}]
    return files or [library]


def probe_kernel(kernel: str, threads: int, *, timeout_s: float = TIMEOUT_S) -> KernelResult:
    """Try one kind of kernel in a child process."""
    weights: list[WeightResult] = []
    try:
        child = PythonProcess(_compute, (kernel, threads), subprocess.DEVNULL)
    except OSError as error:
        return KernelResult(kernel, "untested", f"the child process could not be started ({error})", ())
    try:
        failure = _receive(child, weights, time.monotonic() + timeout_s)
        exit_code = child.wait(0 if failure == "timeout" else _EXIT_S)
    finally:
        child.close()
    return _judge(kernel, weights, failure, exit_code)


def _receive(child: PythonProcess, weights: list[WeightResult], deadline: float) -> str | None:
    """Collect the child's results until it ends; None if it finished, else what went wrong."""
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
    wrong = [weight for weight in computed if weight.error is not None and weight.error > MAX_ERROR]
    if failure == "timeout":
        return KernelResult(kernel, "hangs", "timed out", done)
    if failure == "ended":
        return KernelResult(kernel, *_end(exit_code), done)
    if failure is not None:
        return KernelResult(kernel, "untested", failure, done)
    if wrong:
        found = ", ".join(f"{weight.weight_type} has relative error {weight.error:.2g}" for weight in wrong)
        return KernelResult(kernel, "wrong", found, done)
    if not computed:
        return KernelResult(kernel, "unused", "supports none of the tested weight types on this processor", done)
    return KernelResult(kernel, "works", "", done)


def _end(exit_code: int | None) -> tuple[Status, str]:
    """The status that the exit code of an unfinished child stands for."""
    if exit_code is not None and exit_code < 0:
        return "crashes", f"{exit_text(exit_code)} (exit {128 - exit_code})"
    if exit_code is not None and exit_code > 0x7FFF_FFFF:
        return "crashes", f"exit 0x{exit_code:08X}"
    # A Python process that cannot start exits with a small code.
    return "untested", f"the child process exited with {exit_code}"


def _compute(kernel: str, threads: int, sender: Sender) -> None:
    """The child process: send each weight type's result, then None; or a text with the reason for a failure."""
    try:
        from visionward.runtime.ggml.kernel_product import products  # noqa: PLC0415 - the parent needs no library for this

        for product in products(kernel, threads):
            sender.send(WeightResult(product.weight_type, product.error, product.gflops))
        sender.send(None)
    except (VisionwardError, KeyError) as error:
        sender.send(str(error))


def _cache_file(library_files: Sequence[Path], processor: str, kernels: Sequence[str]) -> Path | None:
    """The cache file for these libraries on this processor; None if the libraries cannot be read."""
    digest = hashlib.sha256(f"{PROBE_VERSION}\0{processor}\0{','.join(kernels)}\0".encode())
    try:
        for path in sorted(library_files):
            digest.update(path.read_bytes())
    except OSError:
        return None
    return cache_folder() / KERNELS_FOLDER / f"{digest.hexdigest()[:32]}.json"


def _read_cache(cache_file: Path | None, kernels: Sequence[str]) -> tuple[KernelResult, ...] | None:
    if cache_file is None:
        return None
    try:
        entries = json.loads(cache_file.read_text(encoding="utf-8"))
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


def _write_cache(cache_file: Path | None, results: Sequence[KernelResult]) -> None:
    """Store results. A cache that cannot be written is ignored."""
    if cache_file is None:
        return
    with contextlib.suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=cache_file.parent, prefix=".kernels-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump([asdict(result) for result in results], file)
        Path(aside).replace(cache_file)
