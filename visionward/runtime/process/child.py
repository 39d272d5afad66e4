"""What runs in the guard's process: it loads the guard, and answers one call at a time."""

import contextlib
import logging
import os
import queue
import signal
from typing import TYPE_CHECKING

from visionward.machine.python_process import Connection
from visionward.progress import OnProgress, Progress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.process.messages import Advanced, Call, Cancel, Failed, Judged, Loaded, Logged, Observed, Start

if TYPE_CHECKING:
    from visionward.runtime.guard.answer import Logits
    from visionward.runtime.guard.guard import Guard


def serve_guard(start: Start, connection: Connection) -> None:
    """Load a guard and answer calls until the parent ends this process. The process's main function."""
    # A service manager stops all processes of a service, and the parent may have a call to finish.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    log = logging.getLogger("visionward")
    log.setLevel(start.log_level)
    log.addHandler(_SendLog(connection))

    def report(progress: Progress) -> None:
        connection.send(Advanced(progress))

    try:
        guard = _load(start, report if start.reports_progress else None)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        connection.send(Failed.of(error))
        return
    engine = guard.engine
    calls: queue.SimpleQueue[tuple[Call, CancelToken]] = queue.SimpleQueue()
    current = CancelToken()

    def receive(message: Call | Cancel) -> None:
        nonlocal current
        if isinstance(message, Cancel):
            current.cancel()
        else:
            current = CancelToken()
            calls.put((message, current))

    # On the receiving thread, which can cancel what this one computes.
    connection.on_message = receive
    connection.send(Loaded(engine.model.path.name, engine.device_name, engine.vision_backend))
    while True:
        call, cancel = calls.get()
        _answer(guard, start, call, cancel, connection)


class _SendLog(logging.Handler):
    """Sends log lines to the parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line. It is lost if the parent is gone."""
        with contextlib.suppress(OSError):
            self._connection.send(Logged(record.name, record.levelno, record.getMessage()))


def _load(start: Start, on_progress: OnProgress | None) -> "Guard":
    from visionward.runtime.guard.guard import Guard  # noqa: PLC0415 - only this process loads the native library

    if start.pair is None:
        return Guard.demo(on_progress=on_progress, **start.options)
    return Guard.load(*start.pair, on_progress=on_progress, **start.options)


def _answer(guard: "Guard", start: Start, call: Call, cancel: CancelToken, connection: Connection) -> None:
    def report(progress: Progress) -> None:
        connection.send(Advanced(progress))

    def observe(logits: "Logits") -> None:
        connection.send(Observed(logits))

    try:
        if call.folder is not None:
            os.chdir(call.folder)
        verdict = guard.classify(
            **call.packed.unpack(start.shared),
            on_progress=report if call.reports_progress else None,
            observe=observe if call.reports_logits else None,
            cancel=cancel,
        )
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        connection.send(Failed.of(error))
    else:
        connection.send(Judged(verdict))
