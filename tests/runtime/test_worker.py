"""The worker never waits for a thread that cannot answer."""

import os
import sys
import threading

import pytest

from visionward.runtime.errors import ComputeError
from visionward.runtime.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def test_a_job_cannot_wait_for_another_one(worker: Worker) -> None:
    with pytest.raises(ComputeError, match="from within a classification"):
        worker.run(lambda: worker.run(lambda: 1))
    assert worker.run(lambda: 2) == 2


def test_closing_overtakes_a_job(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = threading.Event()
    check = worker._check_alive

    def then_close() -> None:
        check()
        if not checked.is_set():
            checked.set()
            worker.close()

    monkeypatch.setattr(worker, "_check_alive", then_close)
    with pytest.raises(ComputeError, match="was closed"):
        worker.run(lambda: 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork(worker: Worker) -> None:
    assert worker.run(lambda: 1) == 1
    child = os.fork()
    if child == 0:
        try:
            worker.run(lambda: 1)
        except ComputeError as error:
            os._exit(7 if "another process" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert worker.run(lambda: 2) == 2
