"""A guard that judges batches of a table. It is what every process of a scan runs, on one machine or on many."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from visionward.errors import VisionwardError
from visionward.progress import OnProgress
from visionward.runtime.guard.samples import Sample
from visionward.scan.arrow_tables import items_of, result_row, result_table, samples_alone
from visionward.scan.options import ScanOptions

if TYPE_CHECKING:
    from visionward.runtime.guard.guard import Guard
    from visionward.runtime.guard.verdict import Verdict


class Worker:
    """Judges samples. It can be pickled until it has loaded the guard, which the first call does.

    Args:
        options: the model, and how it judges.
        alone: whether no other process on this machine judges with the same files, which processes share.
    """

    def __init__(self, options: ScanOptions, *, alone: bool = False) -> None:
        self.options = options if alone else options.for_several_processes()
        self._guard: Guard | None = None

    def load(self, on_progress: OnProgress | None = None) -> None:
        """Load the guard. Calling it again has no effect.

        Args:
            on_progress: called while files are checked.

        Raises:
            VisionwardError: whatever ``Guard.load`` raises.
        """
        if self._guard is not None:
            return
        from visionward.runtime.guard.guard import Guard  # noqa: PLC0415 - loads the native library

        options = self.options
        if options.pair is None:
            self._guard = Guard.demo(on_progress=on_progress, **options.engine)
        else:
            self._guard = Guard.load(*options.pair, on_progress=on_progress, **options.engine)

    def __call__(self, batch: Any) -> Any:
        """Judge the samples of an Arrow table.

        Args:
            batch: a table with the columns ``image`` (bytes, or a path on this machine), ``prompt``, ``response``,
                ``messages`` (JSON) and ``id``, those that are needed.

        Returns:
            A table with one row per sample, in order: ``id`` (a hash of image, texts, model and options), ``name`` (the
            sample's id), verdict, scores, warnings, times, and ``error``, which is null if there is a verdict.

        Raises:
            VisionwardError: if the guard cannot be loaded.
            MissingExtraError: if pyarrow is not installed.
        """
        items = [item.read() for item in items_of(batch)]
        judged = self.judge(samples_alone(items))
        return result_table(
            [
                result_row(
                    item,
                    self.options.item_id(item),
                    next(judged) if isinstance(item.content, Sample) else judged_row(None, item.content),
                    self.options.key,
                )
                for item in items
            ]
        )

    def __getstate__(self) -> dict[str, Any]:
        if self._guard is not None:
            raise TypeError("a worker that has loaded its guard cannot be pickled")
        return self.__dict__.copy()

    def judge(self, samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
        """The result of each sample, in order: a verdict, or an ``error``. See `judged_row`.

        Raises:
            VisionwardError: if the guard cannot be loaded.
        """
        self.load()
        if self._guard is None:
            raise AssertionError("load() raises if there is no guard")
        options = self.options
        results = self._guard.classify_batch(
            samples,
            policy=options.policy,
            threshold=options.threshold,
            category_scores=options.category_scores,
            frames=options.frames,
            imitation=options.imitation,
        )
        for result in results:
            yield judged_row(result.verdict, result.error)


def judged_row(verdict: "Verdict | None", error: Exception | None) -> dict[str, Any]:
    """A result as plain values: what ``Verdict.to_dict`` gives, and ``error``, which is None if there is a verdict."""
    if error is not None or verdict is None:
        text = str(error) if isinstance(error, VisionwardError) else f"{type(error).__name__}: {error}"
        return {"verdict": None, "error": text}
    return {**verdict.to_dict(), "error": None}
