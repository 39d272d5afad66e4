"""Classifying many samples: results in order, a failed sample as an error in its place.

While a sample is computed, the next one's image is decoded and cut into tiles on another thread.
"""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from visionward.errors import ClassificationCancelledError, ConversationError, PolicyError, VisionwardError
from visionward.progress import OnProgress, Progress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.guard.samples import Sample
from visionward.runtime.guard.verdict import Verdict

if TYPE_CHECKING:
    from visionward.runtime.guard.classify_keywords import PolicyKeywords

# A sample as the arguments of `Guard.classify` that say what is judged, with an ``id``.
BatchSample: TypeAlias = Sample | Mapping[str, Any]

_KEYS = ("id", "conversation", "image", "prompt", "response")
# Samples that are prepared while another one is computed. Images are decoded one at a time, so more have no use.
_AHEAD = 1
# On Windows, waiting without a timeout cannot be interrupted.
_WAIT_S = 0.2


@dataclass(frozen=True)
class BatchResult:
    """The result for one sample: a verdict or an error.

    Attributes:
        id: the sample's; its number in the batch, from 1 on, if it has none.
        verdict: None if there is an error.
        error: why there is no verdict; None if there is one.
    """

    id: str
    verdict: Verdict | None
    error: VisionwardError | None


def classify_batch(
    classify: Callable[..., Verdict],
    samples: Iterable[BatchSample],
    on_progress: OnProgress | None,
    cancel: CancelToken | None,
    options: "PolicyKeywords",
) -> Iterator[BatchResult]:
    """See ``Guard.classify_batch``; ``classify`` is the guard's."""
    if "exclude" in options:
        options["exclude"] = tuple(options["exclude"])
    # It also ends what runs if the caller leaves the loop.
    token = CancelToken()
    waiting: deque[Future[BatchResult]] = deque()
    progress = _SampleProgress(on_progress, operator.length_hint(samples))
    with (
        nullcontext() if cancel is None else cancel.attached(token),
        ThreadPoolExecutor(1 + _AHEAD, thread_name_prefix="visionward-batch") as pool,
    ):
        try:
            for number, sample in enumerate(samples, start=1):
                waiting.append(pool.submit(_classify, classify, number, sample, token, options))
                if len(waiting) > _AHEAD:
                    yield _result(waiting.popleft(), progress)
            while waiting:
                yield _result(waiting.popleft(), progress)
        finally:
            token.cancel()


class _SampleProgress:
    def __init__(self, on_progress: OnProgress | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = -1
        self.advance()

    def advance(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(Progress("classifying", self._done, max(self._total, self._done), "samples"))


def _result(future: Future[BatchResult], progress: _SampleProgress) -> BatchResult:
    while True:
        try:
            result = future.result(_WAIT_S)
        except FutureTimeoutError:
            if future.done():
                raise
            continue
        progress.advance()
        return result


def _classify(
    classify: Callable[..., Verdict], number: int, sample: BatchSample, token: CancelToken, options: "PolicyKeywords"
) -> BatchResult:
    identifier = str(number)
    try:
        if isinstance(sample, Sample):
            identifier, judged = sample.id, {"conversation": sample.conversation}
        else:
            identifier, judged = _arguments(sample, identifier)
        verdict = classify(**judged, cancel=token, **options)
    except (ClassificationCancelledError, PolicyError):
        raise  # neither is about this sample
    except VisionwardError as error:
        return BatchResult(identifier, None, error)
    return BatchResult(identifier, verdict, None)


def _arguments(sample: Mapping[str, Any], identifier: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(sample, Mapping):
        raise ConversationError(f"the sample is {type(sample).__name__}, expected a Sample or a mapping")
    unknown = [key for key in sample if key not in _KEYS]
    if unknown:
        raise ConversationError(f"unknown key {unknown[0]!r} in the sample, expected {', '.join(_KEYS)}")
    judged = dict(sample)
    return str(judged.pop("id", identifier)), judged
