"""Judging samples with one GGUF pair, in a process of its own: its peak memory is its own, and so is its crash."""

import contextlib
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from visionward.quant.comparison.journal import FeatureError, Judged, Loaded
from visionward.quant.comparison.logit_store import LogitReader, LogitWriter, kl_divergence, relative_error
from visionward.quant.comparison.models import GuardFiles
from visionward.quant.samples import Sample
from visionward.runtime.errors import ComputeError, VisionwardError
from visionward.runtime.policy import Policy
from visionward.runtime.python_process import Sender


@dataclass(frozen=True)
class Item:
    """A sample to judge.

    Attributes:
        digest: of what is judged.
        sample: the sample.
        reference_slots: where the reference's logits are.
        features: compare the vision features of its image.
    """

    digest: str
    sample: Sample
    reference_slots: tuple[int, ...] = ()
    features: bool = False


@dataclass(frozen=True)
class Task:
    """What the process does.

    Attributes:
        files: the pair.
        items: the samples.
        policy: categories in force.
        threshold: unsafe from this score on.
        threads: CPU threads; None for the default.
        gpu_layers: None for the default.
        logits: where the reference's first-token logits are.
        features: folder of the reference's vision features.
        rows: rows of the reference's head; None for the reference itself, which writes what candidates read.
        next_slot: the first free place in the store.
    """

    files: GuardFiles
    items: tuple[Item, ...]
    policy: Policy
    threshold: float
    threads: int | None
    gpu_layers: int | None
    logits: Path
    features: Path
    rows: int | None = None
    next_slot: int = 0


@dataclass(frozen=True)
class Begun:
    """A sample is being judged; if the process dies, it was this one."""

    digest: str


@dataclass(frozen=True)
class Failed:
    """The model cannot be used."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """All samples were judged."""


Message = Begun | Failed | Finished | Judged | Loaded | FeatureError


def run_guard(task: Task, connection: Sender) -> None:
    """Judge all samples and send what was found, one message a sample. The process's main function."""
    logging.basicConfig(level=logging.CRITICAL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            with _Judge(task) as judge:
                connection.send(judge.loaded)
                for item in task.items:
                    connection.send(Begun(item.digest))
                    connection.send(judge.judge(item))
                    if item.features:
                        connection.send(judge.features(item))
            connection.send(Finished())
        except (VisionwardError, OSError, MemoryError) as error:
            connection.send(Failed(str(error) or type(error).__name__))


class _Judge:
    def __init__(self, task: Task) -> None:
        from visionward.runtime.guard import Guard  # noqa: PLC0415 - only this process loads the native library

        self._task = task
        started = time.perf_counter()
        # An ONNX tower that was found beside it would hide what the mmproj file's own quantization does.
        self._guard = Guard.load(
            task.files.text,
            task.files.mmproj,
            threads=task.threads,
            gpu_layers=task.gpu_layers,
            vision_backend="ggml" if task.files.tower is None else "onnx",
            onnx_tower=task.files.tower,
        )
        load_ms = (time.perf_counter() - started) * 1000
        engine = self._guard.engine
        rows = engine.model.vocab_rows
        self._slot = task.next_slot
        self._writer = LogitWriter(task.logits, rows) if task.rows is None else None
        # Distributions over other vocabularies cannot be compared.
        self._reader = LogitReader(task.logits, rows) if task.rows == rows else None
        self.loaded = Loaded(load_ms, rows, engine.device_name, engine.threads)

    def __enter__(self) -> "_Judge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._guard.close()

    def judge(self, item: Item) -> Judged:
        task, seen = self._task, []
        known = self._guard.engine.image_cache.hits
        try:
            verdict = self._guard.classify(
                item.sample.conversation,
                policy=task.policy,
                threshold=task.threshold,
                observe=lambda logits: seen.append(logits.copy()),
            )
        except ComputeError as error:
            return Judged(item.digest, reason=f"the computation failed: {error}", peak_bytes=peak_bytes())
        except VisionwardError as error:
            return Judged(item.digest, reason=str(error), peak_bytes=peak_bytes())
        # An image that the cache knew costs no time to look at, which would flatter the model.
        cached = self._guard.engine.image_cache.hits > known
        stages = ("prefill", "decode") if cached else ("preprocess", "vision", "prefill", "decode", "total")
        judged = Judged(
            item.digest,
            unsafe=verdict.unsafe,
            score=verdict.score,
            answer_mass=verdict.answer_mass,
            categories=tuple(category.code for category in verdict.categories),
            no_answer=verdict.unsafe and verdict.answer_mass < 0.5,
            times_ms={stage: getattr(verdict.timings_ms, stage) for stage in stages},
            tiles=verdict.tiles,
            prompt_tokens=verdict.tokens.prompt,
            peak_bytes=peak_bytes(),
        )
        if self._writer is not None:
            slots = tuple(range(self._slot, self._slot + len(seen)))
            self._slot += len(seen)
            for slot, logits in zip(slots, seen, strict=True):
                self._writer.write(slot, logits)
            return replace(judged, slots=slots)
        if self._reader is None or len(item.reference_slots) != len(seen):
            return judged
        pairs = [(self._reader.read(slot), logits) for slot, logits in zip(item.reference_slots, seen, strict=True)]
        return replace(
            judged,
            kl=float(np.mean([kl_divergence(*pair) for pair in pairs])),
            logit_error=float(np.mean([relative_error(*pair) for pair in pairs])),
        )

    def features(self, item: Item) -> FeatureError:
        path = self._task.features / f"{item.digest}.npy"
        try:
            found = self._guard.engine.encode_image(item.sample.conversation.images[0])
        except VisionwardError:
            return FeatureError(item.digest, None)
        if self._task.rows is None:
            np.save(path, found)
            return FeatureError(item.digest, None)
        if not path.exists():
            return FeatureError(item.digest, None)
        reference = np.load(path, mmap_mode="r", allow_pickle=False)
        comparable = reference.shape == found.shape
        return FeatureError(item.digest, relative_error(reference, found) if comparable else None)


def peak_bytes() -> int | None:
    """Most resident memory of this process so far, the weights that it maps included; None where it is not known."""
    if sys.platform == "linux":
        # ru_maxrss would begin with what the parent had when it forked.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
