"""One thread for all native work, and a clean way to interrupt it.

Interrupts arrive in the main thread. It waits here while the worker computes; when it is interrupted it tells the
worker to stop, waits until it has, and only then lets the interrupt through.

Only a plain lock and a SimpleQueue are shared between the two threads: both are written in C, so an interrupt cannot
leave them half acquired, as it can with the Condition inside Event and Future.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from visionward.runtime.errors import ComputeError

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
        if not self.finished:
            self._done.acquire(timeout=WAIT_S)

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result.pop()


class Worker:
    """Runs jobs one at a time in a thread of its own."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._current: _Job[Any] | None = None
        self._closed = False
        # A daemon: nobody ever leaves run() while a job is running, so that none can be cut off at exit.
        self._thread = threading.Thread(target=self._serve, name="visionward", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._current = job
            job.run()
            self._current = None
            del job

    def run(self, work: Callable[[], T]) -> T:
        """Run a job and return its result; what it raises is raised here.

        Raises:
            ComputeError: if the worker was closed, is not in this process, or was called from a job of its own.
        """
        if threading.current_thread() is self._thread:
            raise ComputeError("the guard was called from within a classification, which would wait for itself.")
        self._check_alive()
        job = _Job(work)
        try:
            self._jobs.put(job)
            while not job.finished:
                job.wait()
                # Whoever closes the guard may come between the check above and the queue.
                if not self._thread.is_alive() and not job.finished:
                    self._check_alive()
        except BaseException:
            job.cancelled = True
            self._await(job)
            raise
        return job.result()

    def _check_alive(self) -> None:
        if self._closed:
            raise ComputeError("the guard was closed: load it again.")
        if not self._thread.is_alive():
            # Threads stay behind when a process forks.
            raise ComputeError("the guard was loaded in another process: load it in the one that uses it.")

    def _await(self, job: _Job[T]) -> None:
        # A job that an interrupt kept out of the queue never finishes: ask the thread, not the job.
        while self._current is job:
            try:
                job.wait()
            except KeyboardInterrupt:
                continue

    def check_cancelled(self) -> None:
        """Called by the job at safe points.

        Raises:
            Cancelled: if the thread that waits for the job was interrupted.
        """
        if self._current is not None and self._current.cancelled:
            raise Cancelled

    def close(self) -> None:
        """Wait for the running job and end the thread; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            # The garbage collector may run here in the worker itself, which cannot wait for its own end.
            if threading.current_thread() is not self._thread:
                self._thread.join()
