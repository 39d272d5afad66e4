"""Progress of a quantizer, which reports the name of each tensor when it begins."""

from collections.abc import Mapping

from visionward.progress import OnProgress, ProgressCounter


class TensorProgress:
    """Counts the bytes of a tensor as done when the next one begins.

    Args:
        on_progress: gets the reports; None for nobody.
        stage: as in ``Progress``.
        sizes: bytes of every tensor by name. Other names count nothing.
    """

    def __init__(self, on_progress: OnProgress | None, stage: str, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._counter = ProgressCounter(on_progress, stage, sum(sizes.values()), "bytes")
        self._current = 0

    def begin(self, name: str) -> None:
        """A tensor begins, so the one before it is done."""
        self._counter.advance(self._current)
        self._current = self._sizes.get(name, 0)

    def finish(self) -> None:
        """The last tensor is done."""
        self._counter.advance(self._current)
        self._current = 0
