"""The guard of the window: a GuardProcess, whose calls run on a thread of their own, with signals as answers."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PySide6.QtCore import QObject, Signal
from settings import Settings

from visionward import CancelToken, ClassificationCancelledError, GuardProcess, Progress, Verdict, VisionwardError


class GuardThread(QObject):
    """Loads and asks one guard after the other. Its methods return at once.

    The signals are emitted on other threads. Qt calls what is connected to them on the thread of its own object.
    """

    loaded = Signal(str)
    progressed = Signal(str, int)
    judged = Signal(Verdict)
    cancelled = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._calls = ThreadPoolExecutor(1, "guard")
        self._guard: GuardProcess | None = None
        self._cancel = CancelToken()

    def load(self, settings: Settings) -> None:
        """Load a guard in place of the one before; ``loaded`` or ``failed`` follows."""
        self._calls.submit(self._answer, lambda: self._load(settings))

    def classify(self, **arguments: Any) -> None:
        """Judge; ``judged``, ``cancelled`` or ``failed`` follows.

        Args:
            arguments: of ``GuardProcess.classify``.
        """
        self._cancel = cancel = CancelToken()
        self._calls.submit(self._answer, lambda: self._classify(cancel, arguments))

    def cancel(self) -> None:
        """End the classification that runs."""
        self._cancel.cancel()

    def close(self) -> None:
        """End the classification and the process."""
        self.cancel()
        self._calls.submit(self._close)
        self._calls.shutdown()

    @property
    def pid(self) -> int | None:
        """The id of the guard's process; None if none runs."""
        return None if self._guard is None else self._guard.pid

    def _answer(self, work: Any) -> None:
        try:
            work()
        except ClassificationCancelledError:
            self.cancelled.emit()
        except VisionwardError as error:
            self.failed.emit(str(error))
        except Exception as error:  # noqa: BLE001 - the window shows it, and is not left waiting
            self.failed.emit(f"{type(error).__name__}: {error}")

    def _load(self, settings: Settings) -> None:
        self._close()
        options = settings.engine_options()
        if settings.pair is None:
            self._guard = GuardProcess.demo(on_progress=self._report, **options)
        else:
            self._guard = GuardProcess.load(*settings.pair, on_progress=self._report, **options)
        self.loaded.emit("demonstration guard" if settings.pair is None else settings.pair[0].name)

    def _classify(self, cancel: CancelToken, arguments: dict[str, Any]) -> None:
        if self._guard is None:
            self.failed.emit("No model is loaded: choose its files in the settings.")
            return
        self.judged.emit(self._guard.classify(cancel=cancel, on_progress=self._report, **arguments))

    def _report(self, progress: Progress) -> None:
        self.progressed.emit(progress.stage, 100 * progress.done // progress.total)

    def _close(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()
