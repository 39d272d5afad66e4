"""The worker never waits for a thread that cannot answer, and no interrupt leaves it unusable."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from linecache import getline
from types import FrameType
from typing import Any

import pytest

from visionward import Engine
from visionward.errors import ComputeError
from visionward.machine import process_memory
from visionward.machine.process_memory import MemoryWatch
from visionward.runtime import worker
from visionward.runtime.worker import Worker

posix = pytest.mark.skipif(sys.platform == "win32", reason="no fork, no timers")


class Resource:
    """What a worker frees at its end."""

    def __init__(self) -> None:
        self.freed = 0

    def free(self) -> None:
        self.freed += 1


def threads() -> set[int]:
    """Those that run: Python also lists one whose start was interrupted before there was a thread."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("visionward")]
    return {thread.ident for thread in ours if thread.ident is not None}


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """Threads of the engines that other tests share."""
    return threads()


def await_end_of_threads(others: set[int]) -> None:
    deadline = time.monotonic() + 5
    while threads() - others and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads() <= others


@pytest.fixture
def resource() -> Resource:
    return Resource()


@pytest.fixture
def one(resource: Resource):
    one = Worker(resource.free)
    yield one
    one.close()


def test_a_job_cannot_wait_for_another_one(one: Worker) -> None:
    with pytest.raises(ComputeError, match="from within a classification"):
        one.run(lambda: one.run(lambda: 1))
    assert one.run(lambda: 2) == 2


def test_closing_overtakes_a_job(one: Worker, resource: Resource, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = threading.Event()
    check = one._check_open

    def then_close() -> None:
        check()
        if not checked.is_set():
            checked.set()
            one.close()

    monkeypatch.setattr(one, "_check_open", then_close)
    with pytest.raises(ComputeError, match="was closed"):
        one.run(lambda: 1)
    assert resource.freed == 1


def test_closing_frees_once_on_the_workers_own_thread(others: set[int]) -> None:
    freed: list[str] = []
    one = Worker(lambda: freed.append(threading.current_thread().name))
    for _ in range(3):
        one.close()
    assert freed == ["visionward"]
    with pytest.raises(ComputeError, match="was closed"):
        one.run(lambda: 1)
    await_end_of_threads(others)


def test_what_freeing_raises_is_raised_by_the_first_close() -> None:
    one = Worker(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.close()
    one.close()


def test_a_job_may_close_its_worker(one: Worker, resource: Resource) -> None:
    """As the garbage collector does, which may run there."""
    one.run(one.close)
    one.close()
    assert resource.freed == 1


# Interrupts at every line, and at random moments.


def interrupted_at(number: int, work: Callable[[], object], *files: str) -> bool:
    """Run something and raise KeyboardInterrupt at a line of it: whether it has so many, and whether it was raised.

    Lines of some files count, those of the worker and of Python's own threading unless given. An interrupt may come at
    any of them but at the end of a with block, which a trace function sees as another line of it.
    """
    files = files or (worker.__file__, threading.__file__)
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with "):
            lines += 1
            if lines == number:
                raise KeyboardInterrupt  # which ends the tracing, too
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    except RuntimeError:
        # What Python's own Condition makes of an interrupt at the end of its wait.
        return True
    finally:
        sys.settrace(before)
    assert lines < number, "an interrupt was lost"
    return False


def test_an_interrupt_at_any_line_of_a_job(one: Worker, others: set[int]) -> None:
    """The one inside Thread.is_alive made Python take the thread for one that had ended."""
    numbers = itertools.takewhile(lambda n: interrupted_at(n, lambda: one.run(lambda: time.sleep(0.002))), count(1))
    for _ in numbers:
        assert one.run(lambda: 2) == 2
    one.close()
    await_end_of_threads(others)


def test_an_interrupt_at_any_line_of_closing() -> None:
    for number in count(1):
        resource = Resource()
        one = Worker(resource.free)
        busy = threading.Thread(target=one.run, args=(lambda: time.sleep(0.02),))
        busy.start()
        time.sleep(0.005)
        was_interrupted = interrupted_at(number, one.close)
        one.close()
        busy.join()
        assert resource.freed == 1
        assert one._ended
        if not was_interrupted:
            break
    assert number > 5


def test_an_interrupt_at_any_line_of_the_beginning(resource: Resource, others: set[int]) -> None:
    """No thread is left that nobody could end."""
    made: list[Worker] = []
    for number in count(1):
        was_interrupted = interrupted_at(number, lambda: made.append(Worker(resource.free)))
        if not was_interrupted:
            break
        await_end_of_threads(others)
    assert number > 20
    made.pop().close()
    assert made == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_interrupt_inside_threading_leaves_a_memory_watch_running(
    monkeypatch: pytest.MonkeyPatch, others: set[int]
) -> None:
    monkeypatch.setattr(process_memory, "SAMPLE_S", 0.001)

    def watch() -> None:
        with MemoryWatch():
            pass

    for number in count(1):
        if not interrupted_at(number, watch, threading.__file__):
            break
        await_end_of_threads(others)
    assert number > 20


@posix
def test_an_interrupted_close_does_not_wait_for_the_end_of_a_job(one: Worker, resource: Resource) -> None:
    begun = threading.Event()
    outcome: list[BaseException] = []

    def endless() -> None:
        begun.set()
        while True:
            one.check_cancelled()
            time.sleep(0.001)

    def classify() -> None:
        try:
            one.run(endless)
        except ComputeError as error:
            outcome.append(error)

    busy = threading.Thread(target=classify)
    busy.start()
    begun.wait()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        one.close()
    busy.join()
    assert resource.freed == 1
    assert "closed during a computation" in str(outcome[0])


def storm(one: Worker, rng: random.Random) -> None:
    """A few interrupts soon after one another, around a job and around what it does when it is interrupted."""
    left = rng.randint(1, 4)

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal left
        while frame is not None and frame.f_code.co_filename != worker.__file__:
            frame = frame.f_back
        left -= frame is not None
        if left:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-4))
        if frame is not None:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while left:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 4e-4))
                while left:
                    assert one.run(lambda: 1) == 1
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGALRM, before)


@posix
@pytest.mark.parametrize("times", [1000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_interrupts_at_random_moments(one: Worker, times: int) -> None:
    rng = random.Random(times)
    for _ in range(times):
        storm(one, rng)
        assert one.run(lambda: 2) == 2


# Other processes.


@posix
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork(one: Worker, resource: Resource) -> None:
    assert one.run(lambda: 1) == 1
    child = os.fork()
    if child == 0:
        try:
            one.run(lambda: 1)
        except ComputeError as error:
            one.close()
            os._exit(7 if "another process" in str(error) and resource.freed == 0 else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert one.run(lambda: 2) == 2


@posix
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_guard_behind_a_fork_ends_with_its_process(pair_of) -> None:
    """A child that ends as programs do, and frees nothing of what is its parent's."""
    pair = pair_of("plain", "f32")
    program = (
        "import os, sys\n"
        "from visionward import Engine\n"
        "engine = Engine(sys.argv[1], sys.argv[2], n_ctx=64, threads=2)\n"
        "engine.logits([1, 2, 3])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    engine.close()\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "print(engine.logits([1, 2, 3]).logits.shape[0])\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(pair.text), str(pair.mmproj)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@posix
def test_an_interrupted_close_of_a_guard_can_be_repeated(pair_of) -> None:
    pair = pair_of("plain", "f32")
    for number in count(1):
        engine = Engine(pair.text, pair.mmproj, n_ctx=64, threads=1)
        was_interrupted = interrupted_at(number, engine.close)
        engine.close()
        assert engine.decoder._context is None
        if not was_interrupted:
            break
