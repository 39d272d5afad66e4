"""Judging samples with one GGUF pair in a child process, so that peak memory and crashes are those of one model."""

import contextlib
import ctypes
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from visionward.compare.array_store import ArrayStore
from visionward.compare.divergence import kl_divergence, relative_error
from visionward.compare.journal import FeatureError, Judged, Loaded
from visionward.compare.models import GuardFiles
from visionward.compare.settings import GuardSettings
from visionward.errors import ComputeError, NativeLibraryError, VisionwardError
from visionward.machine.process_memory import peak_bytes
from visionward.machine.python_process import Sender
from visionward.names import MIN_ANSWER_MASS
from visionward.runtime.guard.samples import Sample


@dataclass(frozen=True)
class Item:
    """A sample to judge.

    Attributes:
        digest: digest of the judged content.
        sample: the sample.
    """

    digest: str
    sample: Sample


@dataclass(frozen=True)
class Task:
    """The job of the process.

    Attributes:
        files: the pair.
        items: samples to judge; empty to open the pair only.
        features: samples whose vision features are compared.
        settings: how the pair is run.
        arrays: folder of the reference's first-token logits and vision features.
        is_reference: whether to write these arrays. Candidates read them.
    """

    files: GuardFiles
    items: tuple[Item, ...]
    features: tuple[Item, ...]
    settings: GuardSettings
    arrays: Path
    is_reference: bool = False


@dataclass(frozen=True)
class Begun:
    """Judging of a sample begins; if the process dies, this sample is the cause."""

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
    """Judge all samples and send the results, one message per sample. The main function of the process."""
    logging.basicConfig(level=logging.CRITICAL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            with _Judge(task) as judge:
                connection.send(judge.loaded)
                for item in task.items:
                    connection.send(Begun(item.digest))
                    connection.send(judge.judge(item))
                # Comparing features takes memory that is not the model's, so it comes last.
                for item in task.features:
                    connection.send(Begun(item.digest))
                    connection.send(judge.features(item))
            connection.send(Finished())
        except (VisionwardError, OSError, MemoryError) as error:
            connection.send(Failed(str(error) or type(error).__name__))


class _Judge:
    def __init__(self, task: Task) -> None:
        from visionward.runtime.guard.guard import Guard  # noqa: PLC0415 - only this process loads the native library

        self._task = task
        settings, on_ggml = task.settings, task.files.tower is None
        started = time.perf_counter()
        # An ONNX tower found beside the mmproj file would hide the effect of its quantization.
        self._guard = Guard.load(
            task.files.text,
            task.files.mmproj,
            # A packed copy of the weights would distort the memory figures.
            kernels="plain",
            threads=settings.threads,
            device=settings.device,
            vision_device=settings.vision_device if on_ggml else None,
            gpu_layers=settings.gpu_layers,
            vision_backend="ggml" if on_ggml else "onnx",
            onnx_tower=task.files.tower,
            max_tiles=task.files.max_tiles,
            band=task.files.band,
        )
        load_ms = (time.perf_counter() - started) * 1000
        engine = self._guard.engine
        rows = engine.model.vocab_rows
        self._arrays = ArrayStore(task.arrays)
        self.loaded = Loaded(load_ms, rows, engine.device_name, engine.threads, library_build())

    def __enter__(self) -> "_Judge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.close()

    def judge(self, item: Item) -> Judged:
        task, seen = self._task, []
        known = self._guard.engine.image_cache.hits
        busy, started = time.process_time(), time.perf_counter()
        try:
            verdict = self._guard.classify(
                item.sample.conversation,
                policy=task.settings.policy,
                threshold=task.settings.threshold,
                observe=lambda logits: seen.append(logits.copy()),
            )
        except ComputeError as error:
            return Judged(item.digest, reason=f"the computation failed: {error}", peak_bytes=peak_bytes())
        except VisionwardError as error:
            return Judged(item.digest, reason=str(error), peak_bytes=peak_bytes())
        processors = (time.process_time() - busy) / (time.perf_counter() - started)
        # An image from the cache takes no vision time, which would make the model look faster than it is.
        cached = self._guard.engine.image_cache.hits > known
        stages = ("prefill", "decode") if cached else ("preprocess", "vision", "prefill", "decode", "total")
        judged = Judged(
            item.digest,
            unsafe=verdict.unsafe,
            score=verdict.score,
            answer_mass=verdict.answer_mass,
            categories=tuple(category.code for category in verdict.categories),
            no_answer=verdict.unsafe and verdict.answer_mass < MIN_ANSWER_MASS,
            times_ms={stage: getattr(verdict.timings_ms, stage) for stage in stages},
            processors=processors,
            tiles=verdict.tiles,
            second_look=verdict.first_look is not None,
            prompt_tokens=verdict.tokens.prompt,
            peak_bytes=peak_bytes(),
        )
        own = np.stack(seen)
        if task.is_reference:
            self._arrays.write(logits_name(item.digest), own)
            return judged
        reference = self._arrays.read(logits_name(item.digest))
        # Distributions over different vocabularies cannot be compared.
        if reference is None or reference.shape != own.shape:
            return judged
        pairs = list(zip(reference, own, strict=True))
        return replace(
            judged,
            kl=float(np.mean([kl_divergence(*pair) for pair in pairs])),
            logit_error=float(np.mean([relative_error(*pair) for pair in pairs])),
        )

    def features(self, item: Item) -> FeatureError:
        try:
            found = self._guard.engine.encode_image(item.sample.conversation.images[0])
        except VisionwardError:
            return FeatureError(item.digest, None)
        if self._task.is_reference:
            self._arrays.write(features_name(item.digest), found)
            return FeatureError(item.digest, None)
        reference = self._arrays.read(features_name(item.digest))
        if reference is None or reference.shape != found.shape:
            return FeatureError(item.digest, None)
        return FeatureError(item.digest, relative_error(reference, found))


def library_build() -> str:
    """The llama.cpp library of this process: versions, the commit that it was built from, and its options."""
    from visionward.runtime.ggml import native  # noqa: PLC0415 - only this process loads the native library

    parts = [f"llama-cpp-python {native.version()}"]
    for name in ("ggml_version", "ggml_commit"):
        with contextlib.suppress(NativeLibraryError):
            value = native.symbol(name, ctypes.c_char_p)() or b""
            parts.append(f"{name.replace('_', ' ')} {value.decode(errors='replace')}")
    parts.append(native.llama.llama_print_system_info().decode(errors="replace").strip(" |"))
    return ", ".join(parts)


def logits_name(digest: str) -> str:
    """Name of a sample's first-token logits among the arrays."""
    return f"{digest}.logits"


def features_name(digest: str) -> str:
    """Name of the vision features of a sample's image among the arrays."""
    return f"{digest}.features"
