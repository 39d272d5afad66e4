"""One thread for all native work, and a clean way to interrupt it.

Interrupts arrive in the main thread. It waits here while the worker computes; when it is interrupted it tells the
worker to stop, waits until it has, and only then lets the interrupt through.

Only plain locks, a SimpleQueue and flags are shared between the two threads: an interrupt cannot leave them half
changed, as it can the Condition inside Event and Future, and Thread itself: up to Python 3.12 one that arrives inside
``is_alive`` or ``join`` makes a running thread pass for one that ended.
"""

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from visionward.errors import ComputeError

T = TypeVar("T")

# Waiting without a limit cannot be interrupted on Windows.
WAIT_S = 0.2


class Cancelled(BaseException):
    """Raised inside the worker when the thread that waits for it was interrupted."""


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self.cancelled = False
        self.finished = False

    def run(self) -> None:
        try:
            if not self.cancelled:
                self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self.finished = True
        self._done.release()

    def wait(self) -> None:
        """Wait for a while, or until the job is done."""
        # Several threads may wait for the last job, and only the first gets the lock: the flag is what counts.
        if not self.finished:
            self._done.acquire(timeout=WAIT_S)

    def raise_error(self) -> None:
        error, self._error = self._error, None
        if isinstance(error, Cancelled):
            raise ComputeError("the guard was closed while it computed: load it again.")
        if error is not None:
            raise error

    def result(self) -> T:
        self.raise_error()
        return self._result.pop()


class Worker:
    """Runs jobs one at a time in a thread of its own.

    Args:
        free: the last job, run when the worker is closed.
    """

    def __init__(self, free: Callable[[], None]) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self._last = _Job(free)
        self._current: _Job[Any] | None = None
        self._closed = self._hurries = self._ended = False
        self._process = os.getpid()
        # A daemon: the end of the interpreter waits in close(), where it waits for it, so that no job is cut off.
        self._thread = threading.Thread(target=self._serve, name="visionward", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            # An interrupt may have come when it was running already.
            self._jobs.put(self._last)
            raise

    def _serve(self) -> None:
        try:
            while True:
                self._current = job = self._jobs.get()
                job.run()
                self._current = None
                if job is self._last:
                    return
                del job
        finally:
            self._ended = True

    def run(self, work: Callable[[], T]) -> T:
        """Run a job and return its result; what it raises is raised here.

        Raises:
            ComputeError: if the worker was closed, is not in this process, or was called from a job of its own.
        """
        if threading.current_thread() is self._thread:
            raise ComputeError("the guard was called from within a classification, which would wait for itself.")
        if self._process != os.getpid():
            # Threads stay behind when a process forks.
            raise ComputeError("the guard was loaded in another process: load it in the one that uses it.")
        self._check_open()
        job = _Job(work)
        try:
            self._jobs.put(job)
            while not job.finished:
                job.wait()
                # Whoever closes the guard may come between the check above and the queue.
                if self._ended and not job.finished:
                    self._check_open()
        except BaseException:
            job.cancelled = True
            self._await(job)
            raise
        return job.result()

    def _check_open(self) -> None:
        if self._closed or self._ended:
            raise ComputeError("the guard was closed: load it again.")

    def _await(self, job: _Job[T]) -> None:
        # A job that an interrupt kept out of the queue never finishes: ask the thread, not the job.
        while self._current is job:
            try:
                job.wait()
            except BaseException:  # noqa: BLE001, S112 - whatever a signal handler raises; the first is raised again
                continue

    def check_cancelled(self) -> None:
        """Called by the job at safe points.

        Raises:
            Cancelled: if the thread that waits for the job was interrupted, or the one that closes the worker.
        """
        if self._current is not None and (self._current.cancelled or self._hurries):
            raise Cancelled

    def close(self) -> None:
        """Wait for what was begun, run the last job and end the thread; calling it again only waits.

        An interrupt ends what was begun at its next safe point, and is raised when the thread has ended. In another
        process than the worker's, which a fork made, nothing happens: what there is to free belongs to the first.
        """
        if self._process != os.getpid():
            return
        if not self._closed:
            # In this order: after an interrupt between the two, calling it again does what is left.
            self._jobs.put(self._last)
            self._closed = True
        # The garbage collector may run here in the worker itself, which cannot wait for its own end.
        if threading.current_thread() is self._thread:
            return
        interrupt: BaseException | None = None
        while not self._ended:
            try:
                self._last.wait()
            except BaseException as error:  # noqa: BLE001 - whatever a signal handler raises
                interrupt, self._hurries = error, True
        if interrupt is not None:
            raise interrupt
        self._last.raise_error()
