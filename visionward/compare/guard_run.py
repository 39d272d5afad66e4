"""Judging samples with a GGUF pair: a child process computes, this one writes the journal."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionward.compare.array_store import ArrayStore
from visionward.compare.guard_process import (
    Begun,
    Failed,
    Finished,
    Item,
    Message,
    Task,
    features_name,
    logits_name,
    run_guard,
)
from visionward.compare.journal import FeatureError, Journal, Judged
from visionward.compare.models import GuardFiles
from visionward.compare.sample_progress import sample_progress
from visionward.compare.settings import GuardSettings
from visionward.errors import ComputeError
from visionward.machine.python_process import PythonProcess
from visionward.progress import OnProgress
from visionward.runtime.guard.samples import Sample

# A sample that crashes the process is skipped; after this many crashes the model is given up.
MAX_CRASHES = 3
_JOIN_S = 10.0

logger = logging.getLogger(__name__)


def journal_key(files: GuardFiles, settings: GuardSettings, reference: Journal | None) -> dict[str, Any]:
    """Everything that the results of a pair depend on besides the samples."""
    return {
        "files": files.identity(),
        "settings": settings.key(),
        "reference": None if reference is None else reference.key,
    }


def arrays_of(reference: Journal) -> ArrayStore:
    """The reference's first-token logits and vision features."""
    return ArrayStore(reference.path.with_suffix(".arrays"))


def missing_arrays(
    reference: Journal, samples: Mapping[str, Sample], settings: GuardSettings, needed: Iterable[str]
) -> frozenset[str]:
    """Needed samples that the reference judged, but whose arrays are missing or damaged."""
    arrays, featured = arrays_of(reference), _with_features(samples, settings)

    def is_missing(digest: str) -> bool:
        found = reference.judged.get(digest)
        if found is None or found.reason is not None:
            return False
        names = [logits_name(digest), *([features_name(digest)] if digest in featured else [])]
        return any(arrays.read(name) is None for name in names)

    return frozenset(digest for digest in needed if is_missing(digest))


def left_to_do(samples: Mapping[str, Sample], settings: GuardSettings, journal: Journal) -> frozenset[str]:
    """Samples that the journal lacks: not judged, or vision features not compared."""
    featured = _with_features(samples, settings)
    return frozenset(
        digest
        for digest in samples
        if digest not in journal.judged or (digest in featured and digest not in journal.features)
    )


def open_guard(files: GuardFiles, settings: GuardSettings) -> str | None:
    """Load a pair and close it. Returns why it cannot be used; None if it can."""
    with _child(_task(files, settings, Path())) as process:
        for message in _messages(process):
            if isinstance(message, Failed):
                return message.reason
            if isinstance(message, Finished):
                return None
        return f"the process died ({_how(process.wait(_JOIN_S))}) while it loaded the model"


def judge_with_guard(
    files: GuardFiles,
    samples: Mapping[str, Sample],
    settings: GuardSettings,
    journal: Journal,
    reference: Journal | None,
    on_progress: OnProgress | None = None,
    again: frozenset[str] = frozenset(),
) -> str | None:
    """Judge the samples that the journal lacks.

    Args:
        files: the pair.
        samples: digest to sample.
        settings: settings of all pairs.
        journal: journal of the pair.
        reference: the reference's journal; None if this is the reference.
        on_progress: called after every sample.
        again: samples to judge although the journal has them, because arrays that candidates need are missing.

    Returns:
        Why the pair was given up; None if every sample was judged or skipped.
    """
    unjudged = {digest for digest in samples if digest not in journal.judged or digest in again}
    featured = {
        digest for digest in _with_features(samples, settings) if digest not in journal.features or digest in again
    }
    progress = sample_progress(on_progress, files.name, len(samples) - len(unjudged), len(samples))
    crashes = 0
    while unjudged or featured:
        task = replace(
            _task(files, settings, arrays_of(reference or journal).folder),
            items=tuple(Item(digest, sample) for digest, sample in samples.items() if digest in unjudged),
            features=tuple(Item(digest, sample) for digest, sample in samples.items() if digest in featured),
            is_reference=reference is None,
        )
        task.arrays.mkdir(exist_ok=True)
        with _child(task) as process:
            current = None
            for message in _messages(process):
                if isinstance(message, Failed):
                    return message.reason
                if isinstance(message, Finished):
                    return None
                if isinstance(message, Begun):
                    current = message.digest
                    continue
                journal.append(message)
                if isinstance(message, Judged):
                    unjudged.discard(message.sample)
                    progress.advance(1)
                if isinstance(message, FeatureError):
                    featured.discard(message.sample)
            crashes += 1
            reason = f"the process died ({_how(process.wait(_JOIN_S))})"
            if current is None or crashes >= MAX_CRASHES:
                return f"{reason}, {crashes} times" if crashes > 1 else f"{reason} while it loaded the model"
            if current in unjudged:
                logger.warning("%s: %s; going on with the next sample", files.name, reason)
                journal.append(Judged(current, reason=f"{reason} while it judged this"))
                unjudged.discard(current)
                progress.advance(1)
            elif current in featured:
                journal.append(FeatureError(current, None))
                featured.discard(current)
    return None


def _task(files: GuardFiles, settings: GuardSettings, arrays: Path) -> Task:
    """A task that opens the pair and judges nothing."""
    return Task(files, (), (), settings, arrays)


def _with_features(samples: Mapping[str, Sample], settings: GuardSettings) -> list[str]:
    with_image = [digest for digest, sample in samples.items() if sample.conversation.images]
    return with_image[: settings.feature_images]


def _messages(process: PythonProcess) -> Iterator[Message]:
    while True:
        try:
            yield process.receive()
        except EOFError:
            return


def _how(code: int | None) -> str:
    if code is None:
        return "it does not end"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def _child(task: Task) -> Iterator[PythonProcess]:
    """A process that runs a task, and is ended with the block."""
    try:
        process = PythonProcess(run_guard, (task,), None)
    except OSError as cause:
        raise ComputeError(f"no process could be started: {cause.strerror or cause}") from cause
    try:
        yield process
    finally:
        process.close()
