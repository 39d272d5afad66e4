"""Measuring how long a guard takes: every stage of a classification, several times."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError
from visionward.machine.machine_load import LoadWatch
from visionward.machine.process_memory import MemoryWatch, PeakMemory
from visionward.names import Kernels
from visionward.progress import OnProgress, Progress
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.images.images import ImageSource

DEFAULT_RUNS = 5
DEFAULT_WARMUP = 1
DEFAULT_PROMPT = "What is in this picture?"

# Loading is measured this often, and not again after so many seconds in all.
MAX_LOADS = 3
MAX_LOAD_S = 20.0
# Tokens that are decoded one at a time: enough for a p95, few enough for a CPU.
DECODED_TOKENS = 16

# A square takes 2 x 2 tiles with every model that has four.
PICTURE_SIZE = 1120
_PATCH = 8

# Stages of a classification, in their order; ``total`` is what the user waits for.
STAGES = ("preprocess", "vision", "prefill", "decode", "total")


class Subject(Protocol):
    """A loaded guard that is measured."""

    @property
    def device(self) -> str:
        """The device that computes."""

    @property
    def threads(self) -> int:
        """CPU threads."""

    @property
    def kernels(self) -> Kernels:
        """The CPU kernels of the text file's weights."""

    def classify_new(self, image: ImageSource, prompt: str, on_progress: OnProgress | None) -> Verdict:
        """Classify an image that the image cache does not have."""

    def classify_again(self, image: ImageSource, prompt: str, on_progress: OnProgress | None) -> Verdict | None:
        """Classify the same image from the image cache; None if the cache could not hold it."""

    def token_times(self, image: ImageSource, prompt: str, count: int) -> list[float]:
        """Milliseconds of each of ``count`` tokens, decoded one at a time after the prompt."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True)
class Spread:
    """A time in milliseconds, measured several times.

    Attributes:
        min, median, p95: of the values; p95 is interpolated linearly, as numpy does it.
        values: in the order of measuring.
    """

    min: float
    median: float
    p95: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value.

        Raises:
            ComputeError: if a value is negative or not finite, or there is none.
        """
        if not values or not all(0 <= value < float("inf") for value in values):
            raise ComputeError(f"invalid times: {list(values)}.")
        low, median, high = np.percentile(np.asarray(values, np.float64), (0, 50, 95))
        return cls(float(low), float(median), float(high), tuple(float(value) for value in values))


@dataclass(frozen=True)
class BenchmarkPlan:
    """What to measure.

    Attributes:
        image: the image to classify; every run encodes it.
        prompt: what the user says.
        runs: measured runs.
        warmup: runs before them that are not measured.
    """

    image: ImageSource
    prompt: str = DEFAULT_PROMPT
    runs: int = DEFAULT_RUNS
    warmup: int = DEFAULT_WARMUP


@dataclass(frozen=True)
class Measurement:
    """The result of a benchmark.

    Attributes:
        times_ms: by row: ``load``, the stages, ``repeat_total`` (the same image a second time; missing if the image
            cache cannot hold it) and ``decode_token`` (one token of an answer).
        memory: the peak, from before the first loading to the end.
        verdict: of the last run.
        device: the device that computed.
        threads: CPU threads.
        kernels: the CPU kernels of the text file's weights.
        other_cores: cores that other programs kept busy meanwhile, on average; None if unknown.
    """

    times_ms: dict[str, Spread]
    memory: PeakMemory
    verdict: Verdict
    device: str
    threads: int
    kernels: Kernels
    other_cores: float | None = None

    @property
    def rates(self) -> dict[str, float]:
        """Tiles or tokens a second, from the medians."""
        amounts = {
            "vision_tiles_per_s": ("vision", self.verdict.tiles),
            "prefill_tokens_per_s": ("prefill", self.verdict.tokens.prompt),
            "decode_tokens_per_s": ("decode_token", 1),
        }
        medians = {name: self.times_ms[stage].median for name, (stage, _) in amounts.items()}
        return {name: 1000 * amounts[name][1] / median for name, median in medians.items() if median > 0}


def measure(
    load: Callable[[OnProgress | None], Subject], plan: BenchmarkPlan, on_progress: OnProgress | None = None
) -> Measurement:
    """Load a guard, classify, and take the times.

    Args:
        load: loads the guard; it is called up to three times, and each guard is closed.
        plan: what to measure.
        on_progress: called for every run, and while it goes on.

    Raises:
        ValueError: if there is no run to measure.
        VisionwardError: whatever loading and classifying raise.
    """
    if plan.runs < 1 or plan.warmup < 0:
        raise ValueError(f"{plan.runs} runs after {plan.warmup} for warm-up; expected at least 1 after 0 or more.")
    load_watch = LoadWatch()
    with MemoryWatch() as memory:
        loads, subject = _load(load, min(plan.runs, MAX_LOADS), on_progress)
        try:
            times, verdict = _classify(subject, plan, on_progress)
            times = {"load": Spread.of(loads)} | times
            others = load_watch.other_cores()
            return Measurement(times, memory.peak, verdict, subject.device, subject.threads, subject.kernels, others)
        finally:
            subject.close()


def _run_progress(on_progress: OnProgress | None, what: str, number: int, total: int) -> OnProgress | None:
    """Report that a run begins; the callback for what goes on in it, which names the run."""
    if on_progress is None:
        return None
    name = f"{what} {number + 1} of {total}"
    on_progress(Progress(name, number, total, "runs"))
    return lambda progress: on_progress(replace(progress, stage=f"{name}, {progress.stage}"))


def _load(
    load: Callable[[OnProgress | None], Subject], most: int, on_progress: OnProgress | None
) -> tuple[list[float], Subject]:
    times: list[float] = []
    while True:
        progress = _run_progress(on_progress, "load", len(times), most)
        start = time.perf_counter()
        subject = load(progress)
        times.append((time.perf_counter() - start) * 1000)
        if len(times) >= most or sum(times) >= MAX_LOAD_S * 1000:
            return times, subject
        subject.close()


def _classify(
    subject: Subject, plan: BenchmarkPlan, on_progress: OnProgress | None
) -> tuple[dict[str, Spread], Verdict]:
    for number in range(plan.warmup):
        progress = _run_progress(on_progress, "warm-up", number, plan.warmup)
        subject.classify_new(plan.image, plan.prompt, progress)
    firsts = []
    for number in range(plan.runs):
        progress = _run_progress(on_progress, "run", number, plan.runs)
        firsts.append(subject.classify_new(plan.image, plan.prompt, progress))
    repeats = []
    for number in range(plan.runs):
        progress = _run_progress(on_progress, "repeat", number, plan.runs)
        verdict = subject.classify_again(plan.image, plan.prompt, progress)
        if verdict is None:
            break
        repeats.append(verdict)
    _run_progress(on_progress, "decode", 0, 1)
    tokens = subject.token_times(plan.image, plan.prompt, DECODED_TOKENS)

    times = {stage: Spread.of([getattr(verdict.timings_ms, stage) for verdict in firsts]) for stage in STAGES}
    if repeats:
        times["repeat_total"] = Spread.of([verdict.timings_ms.total for verdict in repeats])
    times["decode_token"] = Spread.of(tokens)
    return times, firsts[-1]


def synthetic_picture() -> npt.NDArray[np.uint8]:
    """A picture of coloured patches, uint8 (1120, 1120, 3): the same on every machine, and four tiles large."""
    patches = PICTURE_SIZE // _PATCH
    # A hash function gives the same bytes everywhere, which numpy's random numbers do not promise.
    noise = hashlib.shake_256(b"visionward bench").digest(patches * patches * 3)
    colours = np.frombuffer(noise, np.uint8).reshape(patches, patches, 3)
    return np.ascontiguousarray(colours.repeat(_PATCH, axis=0).repeat(_PATCH, axis=1))
