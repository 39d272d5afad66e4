"""Starts the guard's process, watches it during each call, and starts another one after its end."""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from visionward.errors import GuardProcessError
from visionward.progress import OnProgress
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.process.child_process import ChildProcess
from visionward.runtime.process.messages import Advanced, Call, Cancel, Failed, Judged, Loaded, Logged, Observed, Start
from visionward.runtime.process.shared_arguments import Packed, SharedFile

logger = logging.getLogger("visionward.process")

if TYPE_CHECKING:
    from visionward.runtime.guard.judgement import Observer

# After so many failed starts in a row, calls fail at once for this time.
MAX_FAILED_STARTS = 3
RETRY_AFTER_S = 30.0
# How often the cancel flag is read.
POLL_S = 0.02
# A cancelled call that has not ended after this time has hung.
CANCEL_GRACE_S = 30.0


class Supervisor:
    """Owns the guard's process. All methods must be called on the same thread.

    Args:
        start: what the process loads.
        deadline_s: seconds that one call may take in the process; None for no limit.
        check_cancelled: raises Cancelled if the current job was cancelled.

    Attributes:
        loaded: what the last process loaded; None before the first one has.
    """

    def __init__(self, start: Start, deadline_s: float | None, check_cancelled: Callable[[], None]) -> None:
        self._deadline_s = deadline_s
        self._check_cancelled = check_cancelled
        try:
            self._shared = SharedFile() if hasattr(os, "pwrite") else None
        except OSError as error:
            raise GuardProcessError(f"there is no memory to share with the guard's process ({error}).") from error
        self._start = replace(start, shared=None if self._shared is None else self._shared.descriptor)
        self._child: ChildProcess | None = None
        self._failed_starts = 0
        self._last_failure = ""
        self._retry_at = 0.0
        self.loaded: Loaded | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None if no process runs."""
        child = self._child  # the thread that calls the other methods may end it meanwhile
        return None if child is None else child.pid

    @property
    def retry_in_s(self) -> float:
        """Seconds until a process is started again, after several failures in a row; 0 if calls start one at once."""
        return max(0.0, self._retry_at - time.monotonic()) if self._failed_starts >= MAX_FAILED_STARTS else 0.0

    def start(self, on_progress: OnProgress | None = None) -> None:
        """Start a process and wait until it has loaded the guard.

        Raises:
            VisionwardError: whatever loading raises.
            GuardProcessError: if the process cannot be started or ends, or starting failed several times in a row.
        """
        if (retry_in_s := self.retry_in_s) > 0:
            raise GuardProcessError(
                f"the guard's process failed to start {self._failed_starts} times in a row ({self._last_failure}); the "
                f"next attempt is made {retry_in_s:.0f} s from now."
            )
        try:
            self._load(on_progress)
        except Exception as error:
            self._failed_starts += 1
            self._last_failure = str(error).rstrip(".")
            self._retry_at = time.monotonic() + RETRY_AFTER_S
            raise
        self._failed_starts = 0

    def _load(self, on_progress: OnProgress | None) -> None:
        start = replace(
            self._start,
            reports_progress=on_progress is not None,
            log_level=logging.getLogger("visionward").getEffectiveLevel(),
        )
        try:
            self._child = ChildProcess(start, () if self._shared is None else (self._shared.descriptor,))
        except OSError as error:
            raise GuardProcessError(f"the guard's process could not be started ({error.strerror or error}).") from error
        answer, stop = self._answer(self._child, _Wait("loading the model", None, 0.0), on_progress, None)
        failure = answer.exception() if isinstance(answer, Failed) else stop
        if failure is not None:
            self._end()
            raise failure
        self.loaded = answer

    def classify(
        self,
        arguments: dict[str, Any],
        folder: str | None,
        on_progress: OnProgress | None,
        observe: "Observer | None",
    ) -> Verdict:
        """Have the process classify.

        Args:
            arguments: of ``Guard.classify``.
            folder: the working directory that relative paths are relative to.
            on_progress: gets the progress, on this thread.
            observe: gets the logits, on this thread.

        Raises:
            VisionwardError: whatever ``Guard.classify`` raises.
            GuardProcessError: if the process ends, exceeds its deadline or cannot be started.
            Cancelled: if the job was cancelled.
        """
        child = self._running()
        try:
            packed = Packed.pack(arguments, self._shared)
            child.send(Call(packed, folder, on_progress is not None, observe is not None))
            answer, stop = self._answer(
                child, _Wait("classifying", self._deadline_s, CANCEL_GRACE_S), on_progress, observe
            )
        finally:
            if self._shared is not None:
                self._shared.clear()
        if stop is not None:
            raise stop
        self._check_cancelled()
        if isinstance(answer, Judged):
            return answer.verdict
        raise answer.exception()

    def _running(self) -> ChildProcess:
        if self._child is not None and self._child.has_ended:
            logger.warning("the guard's process ended between two calls (%s).", self._child.end_text())
            self._end()
        if self._child is None:
            self.start()
        if self._child is None:
            raise AssertionError("start() raises if there is no process")
        return self._child

    def _answer(
        self, child: ChildProcess, wait: "_Wait", on_progress: OnProgress | None, observe: "Observer | None"
    ) -> tuple[Any, BaseException | None]:
        """Pass on reports until the process answers. The process is ended if it does not.

        Returns:
            Loaded, Judged or Failed; and Cancelled or what a callback raised, after which the process was told to stop.
        """
        stop: BaseException | None = None
        try:
            while True:
                if stop is None and (stop := _raised_by(self._check_cancelled)) is not None:
                    child.send(Cancel())
                    wait.hurry()
                message = self._receive(child, wait)
                if isinstance(message, Loaded | Judged | Failed):
                    return message, stop
                if stop is None and (stop := _reported(message, on_progress, observe)) is not None:
                    child.send(Cancel())
                    wait.hurry()
        except BaseException as error:
            self._end()
            if stop is not None:
                raise stop from error
            raise

    def _receive(self, child: ChildProcess, wait: "_Wait") -> Any:
        """The next message; None if there was none for a while.

        Raises:
            GuardProcessError: if the process ended, or time is up.
        """
        try:
            return child.receive(POLL_S)
        except TimeoutError:
            if wait.is_over:
                raise GuardProcessError(
                    f"the guard's process did not finish {wait.what} within {wait.limit_s:g} s and was ended; the next "
                    "call starts another one."
                ) from None
            return None
        except EOFError:
            raise GuardProcessError(
                f"the guard's process ended while {wait.what} ({child.end_text()}); the next call starts another one."
            ) from None
        except Exception as error:
            raise GuardProcessError(
                f"the guard's process sent what cannot be read while {wait.what} ({error}) and was ended; the next "
                "call starts another one."
            ) from error

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def close(self) -> None:
        """End the process and free the shared memory."""
        self._end()
        if self._shared is not None:
            self._shared.close()


class _Wait:
    """How long an answer may take.

    Args:
        what: what the process does, for the message.
        limit_s: seconds; None for no limit.
        grace_s: seconds that it may take after it was told to stop.
    """

    def __init__(self, what: str, limit_s: float | None, grace_s: float) -> None:
        self.what = what
        self.limit_s = math.inf if limit_s is None else limit_s
        self._end = time.monotonic() + self.limit_s
        self._grace_s = grace_s

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end

    def hurry(self) -> None:
        """The process was told to stop."""
        self._end = min(self._end, time.monotonic() + self._grace_s)


def _raised_by(check: Callable[[], None]) -> BaseException | None:
    try:
        check()
    except BaseException as error:  # noqa: BLE001 - raised again when the process has stopped
        return error
    return None


def _reported(
    message: Advanced | Observed | Logged | None, on_progress: OnProgress | None, observe: "Observer | None"
) -> BaseException | None:
    """Pass on a report; what the callback raised."""
    if isinstance(message, Logged):
        logging.getLogger(message.logger).log(message.level, "%s", message.text)
    if isinstance(message, Advanced) and on_progress is not None:
        return _raised_by(partial(on_progress, message.progress))
    if isinstance(message, Observed) and observe is not None:
        return _raised_by(partial(observe, message.logits))
    return None
