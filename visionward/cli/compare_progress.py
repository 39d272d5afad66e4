"""Progress of a comparison on standard error."""

import logging
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from visionward.progress import Progress
from visionward.quantities import size_text

_NOTES = logging.getLogger("visionward.compare")


class ComparisonProgress:
    """A bar per model and notes above them; if standard error is no terminal, the notes alone.

    It is the `OnProgress` callback of `visionward.compare.run`, and inside its ``with`` block it prints what is logged
    to ``visionward.compare``.
    """

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._notes = _Notes(console)
        self._level, self._propagate = _NOTES.level, _NOTES.propagate

    def __enter__(self) -> "ComparisonProgress":
        self._level, self._propagate = _NOTES.level, _NOTES.propagate
        _NOTES.addHandler(self._notes)
        _NOTES.setLevel(logging.INFO)
        # With --verbose the root logger would print them once more.
        _NOTES.propagate = False
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        _NOTES.removeHandler(self._notes)
        _NOTES.setLevel(self._level)
        _NOTES.propagate = self._propagate

    def __call__(self, progress: Progress) -> None:
        """Move the bar of a model; the first call adds it, at what an earlier run left."""
        task = self._tasks.get(progress.stage)
        if task is None:
            self._tasks[progress.stage] = self._bars.add_task(
                escape(progress.stage), total=progress.total, completed=progress.done, count=_count(progress)
            )
        else:
            self._bars.update(task, completed=progress.done, count=_count(progress))


def _count(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{size_text(progress.done)} of {size_text(progress.total)}"
    return f"{progress.done}/{progress.total}"


class _Notes(logging.Handler):
    """Prints a line above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a note."""
        self._console.print(escape(record.getMessage()), soft_wrap=True)
