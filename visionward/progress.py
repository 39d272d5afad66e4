"""Progress of long work: one callback for loading, classifying, converting, exporting and batches."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["bytes", "tiles", "layers", "tokens", "tensors", "samples", "runs"]


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: what is under way, in a word or two that a person can read: ``vision``, ``prompt``, ``text file``.
        done: units that are done.
        total: units of the whole stage.
        unit: what is counted.
    """

    stage: str
    done: int
    total: int
    unit: Unit


# Called on the thread that does the work, often: it should return at once. What it raises ends the work.
OnProgress: TypeAlias = Callable[[Progress], None]


class ProgressCounter:
    """Counts the units of one stage, and reports the stage's beginning and every advance.

    ``advance`` may be called from several threads; reports are made one at a time, with rising counts.

    Args:
        on_progress: gets the reports; None for nobody.
        stage: as in ``Progress``.
        total: units of the whole stage. What is counted beyond it is reported as the total.
        unit: what is counted.
        done: units that were done before.
    """

    def __init__(self, on_progress: OnProgress | None, stage: str, total: int, unit: Unit, done: int = 0) -> None:
        self._on_progress = on_progress
        self._stage = stage
        self._total = total
        self._unit: Unit = unit
        self._done = done
        self._lock = threading.Lock()
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count units that are done. A stage without units is not reported."""
        if self._on_progress is None or not self._total:
            return
        with self._lock:
            self._done = min(self._done + count, self._total)
            self._on_progress(Progress(self._stage, self._done, self._total, self._unit))
