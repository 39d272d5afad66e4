"""One thread for all native work, and a clean way to interrupt it.

Interrupts arrive in the main thread, which waits here while the worker computes. When it is interrupted, it tells the
worker to stop, waits until it has stopped, and only then lets the interrupt through.

The two threads share only plain locks, a SimpleQueue and flags, which an interrupt cannot leave half changed. It can do
that to the Condition inside Event and Future, and to Thread itself: up to Python 3.12, an interrupt inside ``is_alive``
or ``join`` makes a running thread appear to have ended.
"""

import os
import queue
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

from visionward.errors import ComputeError
from visionward.runtime.cancellation import CancelFlag, Cancelled, CancelToken

T = TypeVar("T")

# A wait without a timeout cannot be interrupted on Windows.
WAIT_S = 0.2


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self.flag = CancelFlag()
        self.finished = False

    def run(self) -> None:
        try:
            if self.flag.is_set:
                self._error = Cancelled()
            else:
                self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            self._error = error
        self.finished = True
        self._done.release()

    def wait(self) -> None:
        """Wait until the job is done, or ``WAIT_S`` seconds."""
        # Several threads may wait for the last job, and only the first gets the lock; the flag tells them all.
        if not self.finished:
            self._done.acquire(timeout=WAIT_S)

    def raise_error(self, cancel: CancelToken | None = None) -> None:
        error, self._error = self._error, None
        if isinstance(error, Cancelled):
            if cancel is not None:
                cancel.raise_if_cancelled()
            raise ComputeError("the guard was closed during a computation; load it again.")
        if error is not None:
            raise error

    def result(self, cancel: CancelToken | None) -> T:
        self.raise_error(cancel)
        return self._result.pop()


class Worker:
    """Runs jobs one at a time on a thread of its own.

    Args:
        free: the last job, run when the worker is closed.
    """

    def __init__(self, free: Callable[[], None]) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self._last = _Job(free)
        self._current: _Job[Any] | None = None
        self._closed = self._hurries = self._ended = False
        self._process = os.getpid()
        # A daemon, so that the interpreter's end does not wait for it before close() is called, which does wait.
        self._thread = threading.Thread(target=self._serve, name="visionward", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            # An interrupt may have arrived after the thread started.
            self._jobs.put(self._last)
            raise

    def _serve(self) -> None:
        try:
            while True:
                self._current = job = self._jobs.get()
                if self._hurries and job is not self._last:
                    job.flag.set()
                job.run()
                self._current = None
                if job is self._last:
                    return
                del job
        finally:
            self._ended = True

    def run(self, work: Callable[[], T], cancel: CancelToken | None = None) -> T:
        """Run a job and return its result; what it raises is raised here.

        Args:
            work: the job.
            cancel: ends the job, whether it runs or waits for its turn.

        Raises:
            ClassificationCancelledError: if the token was cancelled before the result was returned.
            ComputeError: if the worker was closed, is not in this process, or was called from one of its own jobs.
        """
        if cancel is not None:
            cancel.raise_if_cancelled()
        if threading.current_thread() is self._thread:
            raise ComputeError(
                "the guard was called from within a classification, which would wait for itself; call it from another "
                "thread."
            )
        if self._process != os.getpid():
            # A forked process has no copy of the thread.
            raise ComputeError("the guard was loaded in another process; load it in the process that uses it.")
        self._check_open()
        job = _Job(work)
        with nullcontext() if cancel is None else cancel.attached(job.flag):
            try:
                self._jobs.put(job)
                while not job.finished:
                    job.wait()
                    # The guard may have been closed between the check above and the queue.
                    if self._ended and not job.finished:
                        self._check_open()
                    if cancel is not None and self._current is not job and not job.finished:
                        cancel.raise_if_cancelled()
            except BaseException:
                job.flag.set()
                self._await(job)
                raise
            result = job.result(cancel)
        if cancel is not None:
            cancel.raise_if_cancelled()
        return result

    def _check_open(self) -> None:
        if self._closed or self._ended:
            raise ComputeError("the guard was closed; load it again.")

    def _await(self, job: _Job[T]) -> None:
        # A job that an interrupt kept out of the queue never finishes: ask the thread, not the job.
        while self._current is job:
            try:
                job.wait()
            except BaseException:  # noqa: BLE001, S112 - whatever a signal handler raises; the first is raised again
                continue

    def cancel_flag(self) -> CancelFlag:
        """For jobs: the flag of the current one.

        It is set when the thread that waits for the job, or the one that closes the worker, is interrupted, or when the
        job's token is cancelled.
        """
        return self._current.flag if self._current is not None else CancelFlag()

    def check_cancelled(self) -> None:
        """For jobs, at points where they can end.

        Raises:
            Cancelled: if the flag of the current job is set.
        """
        if self.cancel_flag().is_set:
            raise Cancelled

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Wait for the jobs in the queue, run the last one and end the thread; calling it again only waits.

        An interrupt cancels those jobs, and is raised when the thread has ended. In a forked copy of the process this
        does nothing: the resources belong to the original.
        """
        if self._process != os.getpid():
            return
        if not self._closed:
            # In this order: after an interrupt between the two, a second call does the rest.
            self._jobs.put(self._last)
            self._closed = True
        # The garbage collector may call this on the worker's own thread, which cannot wait for its own end.
        if threading.current_thread() is self._thread:
            return
        interrupt: BaseException | None = None
        while not self._ended:
            try:
                self._last.wait()
            except BaseException as error:  # noqa: BLE001 - whatever a signal handler raises
                interrupt, self._hurries = error, True
                current = self._current
                if current is not None and current is not self._last:
                    current.flag.set()
        if interrupt is not None:
            raise interrupt
        self._last.raise_error()
