"""The calls of a guard that follow from ``classify``: for asyncio, for batches, and the ``with`` block."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from visionward.progress import OnProgress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.guard.async_calls import run_in_thread
from visionward.runtime.guard.batch import BatchResult, BatchSample, classify_batch
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.verdict import Verdict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.guard.classify_keywords import ClassifyKeywords, PolicyKeywords

SomeGuard = TypeVar("SomeGuard", bound="DerivedCalls")


class DerivedCalls(ABC):
    """What ``Guard`` and ``GuardProcess`` share."""

    @abstractmethod
    def classify(self, *arguments: Any, **keywords: Any) -> Verdict:
        """Judge the last message of a conversation."""

    @property
    @abstractmethod
    def is_available(self) -> bool:
        """Whether calls are served: neither after ``close`` nor while a process that failed to start has to wait."""

    @abstractmethod
    def close(self) -> None:
        """Free what the guard holds. Calling it again has no effect."""

    async def aclassify(
        self,
        conversation: Conversation | Sequence[Mapping[str, Any]] | None = None,
        *,
        cancel: CancelToken | None = None,
        **arguments: "Unpack[ClassifyKeywords]",
    ) -> Verdict:
        """``classify`` for asyncio: the event loop goes on meanwhile.

        Cancelling the task ends the computation, as ``cancel`` does, and frees its place. ``on_progress`` and
        ``observe`` are called on another thread.

        Args:
            conversation: see ``classify``.
            cancel: see ``classify``.
            arguments: the other keyword arguments of ``classify``.

        Raises:
            VisionwardError: as ``classify`` does.
        """
        return await run_in_thread(lambda token: self.classify(conversation, cancel=token, **arguments), cancel)

    def classify_batch(
        self,
        samples: Iterable[BatchSample],
        *,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
        **options: "Unpack[PolicyKeywords]",
    ) -> Iterator[BatchResult]:
        """Classify many samples. The results come in order, each as soon as it is there.

        A sample that cannot be judged is a result with an error, never a missing one. ``Guard`` decodes the next
        sample's image while one is computed. Leaving the loop ends the computation.

        Args:
            samples: each a ``Sample``, or a mapping with ``conversation``, or ``image``, ``prompt`` and ``response``,
                as for ``classify``, and an optional ``id``. They may come from an iterator of any length.
            on_progress: called in this thread for each result; the total of an iterator is not known.
            cancel: ends the batch: within one layer.
            options: the other keyword arguments of ``classify``, the same for all samples.

        Raises:
            ClassificationCancelledError: ``cancel`` was cancelled before the last result.
            PolicyError: a category is unknown or malformed, or the threshold is not a probability.
            ValueError: an option has an invalid value.
        """
        return classify_batch(self.classify, samples, on_progress, cancel, options)

    def __enter__(self: SomeGuard) -> SomeGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
