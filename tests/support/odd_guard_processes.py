"""Stand-ins for the process that judges; importable from a spawned process."""

import os
from pathlib import Path

from visionward.compare.guard_process import Begun, Failed, Finished
from visionward.compare.journal import Judged, Loaded


def _judge(item):
    return Judged(item.digest, unsafe=False, score=0.25, answer_mass=1.0, times_ms={"total": 1.0})


def crashing_guard(task, connection):
    """Dies at every sample whose text says so."""
    connection.send(Loaded(1.0, 8, "none", 1))
    for item in task.items:
        connection.send(Begun(item.digest))
        if "crash" in item.sample.conversation.texts[0]:
            os._exit(7)
        connection.send(_judge(item))
    connection.send(Finished())


def dying_guard(task, connection):  # noqa: ARG001
    """Dies while it loads."""
    os._exit(9)


def refusing_guard(task, connection):
    """Cannot use the files."""
    connection.send(Failed(f"{task.files.text}: no good"))


def slow_guard(task, connection):
    """Says on the disk which samples it was asked, and stops answering after three."""
    connection.send(Loaded(1.0, 8, "none", 1))
    for number, item in enumerate(task.items):
        with Path(task.arrays).with_suffix(".asked").open("a") as file:
            file.write(f"{item.digest}\n")
        connection.send(Begun(item.digest))
        if number == 3 and not Path(task.arrays).with_suffix(".go-on").exists():
            connection.send(KeyboardInterrupt())
        connection.send(_judge(item))
    connection.send(Finished())


def opening_guard(task, connection):
    """Opens only pairs that are not called bad."""
    if "bad" in task.files.name:
        connection.send(Failed(f"{task.files.text}: no good"))
        return
    crashing_guard(task, connection)


def failing_candidate(task, connection):
    """Opens every pair, but a bad one fails as soon as it is to judge."""
    if "bad" in task.files.name and task.items:
        os._exit(11)
    crashing_guard(task, connection)
