"""What runs in each process of a scan on one machine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from visionward.machine.python_process import Connection
from visionward.runtime.guard.samples import Sample
from visionward.runtime.process.messages import Failed
from visionward.scan.options import ScanOptions
from visionward.scan.worker import Worker, judged_row

# One sample is computed while the image of the next one is decoded.
SAMPLES_AT_A_TIME = 2


@dataclass(frozen=True)
class Task:
    """Judge a sample; ``identifier`` comes back with the result."""

    identifier: str
    sample: Sample


@dataclass(frozen=True)
class Loaded:
    """The guard was loaded."""


@dataclass(frozen=True)
class Done:
    """The result of a task."""

    identifier: str
    judged: dict[str, Any]


def serve_tasks(options: ScanOptions, connection: Connection) -> None:
    """Load a guard and judge samples until the parent ends this process. The process's main function."""
    # The options say already whether there are several processes.
    worker = Worker(options, alone=True)
    try:
        worker.load()
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        connection.send(Failed.of(error))
        return
    connection.send(Loaded())
    with ThreadPoolExecutor(SAMPLES_AT_A_TIME) as threads:
        while True:
            threads.submit(_judge, worker, connection.receive(), connection)


def _judge(worker: Worker, task: Task, connection: Connection) -> None:
    try:
        (judged,) = worker.judge([task.sample])
    except Exception as error:  # noqa: BLE001 - whatever happened, this sample has no verdict
        judged = judged_row(None, error)
    connection.send(Done(task.identifier, judged))
