"""Size, memory and times of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visionward.compare.journal import Judged
from visionward.compare.models import GuardFiles, file_size
from visionward.compare.results import ModelResults

STAGES = ("vision", "prefill", "decode", "total")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a stage; vision includes preprocessing."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Cost:
    """Size, memory and times of a model on a data set.

    Attributes:
        text_bytes: size of the text file.
        mmproj_bytes: size of the mmproj file.
        tower_bytes: size of the ONNX tower; None without one.
        load_ms: milliseconds of the last load.
        peak_bytes: peak memory of its process, including mapped weights; None if it is not known.
        latency: by stage, over the samples of the set.
        device: name of the device that computed.
        threads: CPU threads.
        processors: processor time over elapsed time of a verdict, in the median; None if it is not known.
    """

    text_bytes: int | None
    mmproj_bytes: int | None
    tower_bytes: int | None
    load_ms: float | None
    peak_bytes: int | None
    latency: Mapping[str, Latency]
    device: str | None
    threads: int | None
    processors: float | None

    @property
    def total_bytes(self) -> int | None:
        """Size of all files."""
        if self.text_bytes is None or self.mmproj_bytes is None:
            return None
        return self.text_bytes + self.mmproj_bytes + (self.tower_bytes or 0)


def cost(result: ModelResults, judged: Sequence[Judged]) -> Cost:
    """Size, memory and times of a model on the samples of a set."""
    model = result.model
    files = model if isinstance(model, GuardFiles) else None
    latency = {}
    for stage in STAGES:
        times = [time for one in judged if one.times_ms and (time := stage_ms(one.times_ms, stage)) is not None]
        p50, p95 = percentile(times, 50), percentile(times, 95)
        if p50 is not None and p95 is not None:
            latency[stage] = Latency(p50, p95)
    loaded = result.loads[-1] if result.loads else None
    return Cost(
        text_bytes=None if files is None else file_size(files.text),
        mmproj_bytes=None if files is None else file_size(files.mmproj),
        tower_bytes=None if files is None or not files.tower_files else sum(map(file_size, files.tower_files)),
        load_ms=None if loaded is None else loaded.load_ms,
        peak_bytes=max((one.peak_bytes for one in result.judged.values() if one.peak_bytes), default=None),
        latency=latency,
        device=None if loaded is None else loaded.device,
        threads=None if loaded is None else loaded.threads,
        processors=processors_median(judged),
    )


def processors_median(judged: Sequence[Judged]) -> float | None:
    """Processor time over elapsed time of a verdict, in the median; None if it is not known."""
    return percentile([one.processors for one in judged if one.processors is not None], 50)


def stage_ms(times: Mapping[str, float], stage: str) -> float | None:
    """Milliseconds of a stage, vision including preprocessing; None if the stage did not run."""
    if stage == "vision" and "vision" in times:
        return times["vision"] + times.get("preprocess", 0.0)
    if stage == "decode" and times.get("decode", 0.0) < 1e-3:
        return None
    return times.get(stage)


def percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile; None without values."""
    return float(np.percentile(np.asarray(values, np.float64), share)) if values else None
