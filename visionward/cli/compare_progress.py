"""Progress of a comparison on standard error."""

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ComparisonProgress:
    """A bar for each model, and notes above them; where standard error is no terminal, the notes alone."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ComparisonProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, model: str, done: int, total: int) -> None:
        """A bar begins, where an earlier run left it."""
        self._tasks[model] = self._progress.add_task(escape(model), total=total, completed=done)
        resumed = f", {done} of them by an earlier run" if done else ""
        self.note(f"{model}: {total} samples{resumed}")

    def advance(self, model: str) -> None:
        """One sample more."""
        self._progress.advance(self._tasks[model])

    def note(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(escape(text), soft_wrap=True)
