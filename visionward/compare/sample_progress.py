"""How far a model is with its samples."""

import logging

from visionward.progress import OnProgress, Progress

logger = logging.getLogger(__name__)


class SampleProgress:
    """Reports every sample of one model to a callback.

    Args:
        on_progress: the callback; None if nobody waits.
        model: name of the model.
        done: samples that an earlier run judged.
        total: samples of the comparison.
    """

    def __init__(self, on_progress: OnProgress | None, model: str, done: int, total: int) -> None:
        self._on_progress, self._model, self._done, self._total = on_progress, model, done, total
        logger.info("%s: %d samples%s", model, total, f", {done} of them by an earlier run" if done else "")
        self._report()

    def advance(self) -> None:
        """One sample more was judged."""
        self._done += 1
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._model, self._done, self._total, "samples"))
