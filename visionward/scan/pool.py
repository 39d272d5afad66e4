"""Processes that judge samples. They share one memory-mapped copy of the model's files."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from visionward.errors import GuardProcessError
from visionward.machine.python_process import PythonProcess, exit_text
from visionward.runtime.guard.samples import Sample
from visionward.runtime.process.messages import Failed
from visionward.scan.child import SAMPLES_AT_A_TIME, Done, Loaded, Task, serve_tasks
from visionward.scan.options import ScanOptions
from visionward.scan.worker import judged_row

# A sample that was in a process when it ended, or was ended, is judged again, alone, before it is given up.
MAX_ATTEMPTS = 2
# A sample may have eight frames, and a slow machine takes 100 s for one.
DEFAULT_DEADLINE_S = 1800.0
_WAIT_S = 0.2
_END_S = 10.0


@dataclass
class _Sent:
    task: Task
    failures: int = 0


class Pool:
    """A number of processes, each with a guard.

    Args:
        options: the model, and how it judges.
        jobs: number of processes.
        on_result: gets id and result of each sample, on a thread of the pool, one call at a time.
        deadline_s: seconds within which a process must finish a sample. It is ended if it does not.
    """

    def __init__(
        self,
        options: ScanOptions,
        jobs: int,
        on_result: Callable[[str, dict[str, Any]], None],
        deadline_s: float = DEFAULT_DEADLINE_S,
    ) -> None:
        self._options = options if jobs == 1 else options.for_several_processes()
        self._deadline_s = deadline_s
        self._capacity = jobs * (SAMPLES_AT_A_TIME + 1)
        self._on_result = on_result
        self._tasks: queue.SimpleQueue[_Sent | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._waiting = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._processes: set[PythonProcess] = set()
        self._threads = [threading.Thread(target=self._run, name="visionward-scan", daemon=True) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    @property
    def lock(self) -> threading.Condition:
        """Held while ``on_result`` is called. ``submit`` may be called while it is held, and releases it to wait."""
        return self._changed

    def submit(self, identifier: str, sample: Sample) -> None:
        """Have a sample judged. Waits while the pool has enough to do.

        Raises:
            VisionwardError: if a guard cannot be loaded, or whatever ``on_result`` raised.
        """
        self.wait_until(lambda: self._waiting < self._capacity)
        with self._changed:
            self._waiting += 1
        self._tasks.put(_Sent(Task(identifier, sample)))

    def finish(self) -> None:
        """Wait for all results.

        Raises:
            VisionwardError: as ``submit``.
        """
        self.wait_until(lambda: self._waiting == 0)

    def wait_until(self, is_reached: Callable[[], bool]) -> None:
        """Wait until something is true that results change. It is asked while ``lock`` is held.

        Raises:
            VisionwardError: as ``submit``.
        """
        with self._changed:
            while self._failure is None and not is_reached():
                # Without a timeout, an interrupt would wait too on Windows.
                self._changed.wait(_WAIT_S)
            if self._failure is not None:
                raise self._failure

    def _finished(self, identifier: str, judged: dict[str, Any]) -> None:
        with self._changed:
            if self._closing:
                return
            self._on_result(identifier, judged)
            self._waiting -= 1
            self._changed.notify_all()

    def _run(self) -> None:
        """Run processes one after the other."""
        again: deque[_Sent] = deque()
        try:
            # The model is not loaded for nothing.
            first = self._tasks.get()
            if first is None:
                return
            again.append(first)
            while self._judge_in_one_process(again):
                pass
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _judge_in_one_process(self, again: deque[_Sent]) -> bool:
        """Judge samples until the process ends. Returns whether another one is needed.

        Args:
            again: samples to judge first; those that failed before are judged alone.
        """
        process = self._started()
        inside: dict[str, _Sent] = {}
        try:
            while True:
                if not self._send_some(process, inside, again):
                    return False
                # A guard judges one sample after the other, so each result begins the time of the next one.
                message = process.receive(self._deadline_s)
                if isinstance(message, Done):
                    del inside[message.identifier]
                    self._finished(message.identifier, message.judged)
        except EOFError:
            reason = f"the guard's process ended ({exit_text(process.wait(_END_S))})"
        except TimeoutError:
            reason = f"no result within {self._deadline_s:g} s"
        finally:
            self._end(process)
        if self._closing:
            return False
        for sent in inside.values():
            sent.failures += 1
            if sent.failures < MAX_ATTEMPTS:
                again.append(sent)
            else:
                error = GuardProcessError(f"given up after {sent.failures} attempts: {reason}")
                self._finished(sent.task.identifier, judged_row(None, error))
        return True

    def _send_some(self, process: PythonProcess, inside: dict[str, _Sent], again: deque[_Sent]) -> bool:
        """Give the process as many samples as it takes. Returns whether it has any: False if the pool is closed."""
        while len(inside) < SAMPLES_AT_A_TIME:
            if any(sent.failures for sent in inside.values()) or (inside and again and again[0].failures):
                break
            if again:
                sent: _Sent | None = again.popleft()
            else:
                try:
                    sent = self._tasks.get(block=not inside)
                except queue.Empty:
                    break
            if sent is None:
                return False
            inside[sent.task.identifier] = sent
            try:
                process.send(sent.task)
            except OSError:
                break  # receive() says that it has ended
        return True

    def _started(self) -> PythonProcess:
        """A process that has loaded its guard.

        Raises:
            VisionwardError: whatever loading raises.
            GuardProcessError: if it cannot be started, or ends.
        """
        try:
            process = PythonProcess(serve_tasks, (self._options,), None)
        except OSError as error:
            raise GuardProcessError(f"no process could be started: {error.strerror or error}") from error
        with self._changed:
            self._processes.add(process)
            closing = self._closing
        try:
            if closing:
                process.close()  # close() did not know of it
            message = process.receive()
        except EOFError:
            self._end(process)
            how = exit_text(process.wait(_END_S))
            raise GuardProcessError(f"the guard's process ended while it loaded the model ({how})") from None
        if isinstance(message, Failed):
            self._end(process)
            raise message.exception()
        if not isinstance(message, Loaded):
            raise TypeError(f"unexpected message {type(message).__name__} from the guard's process")
        return process

    def _end(self, process: PythonProcess) -> None:
        with self._changed:
            self._processes.discard(process)
        process.close()

    def close(self) -> None:
        """End the processes, whatever they do. Samples without a result have none."""
        with self._changed:
            self._closing = True
            processes = list(self._processes)
        for _ in self._threads:
            self._tasks.put(None)
        for process in processes:
            process.close()
        for thread in self._threads:
            thread.join(_END_S)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
