"""What runs in the guard's process: it loads the guard, and answers one call at a time."""

import os
import signal
import threading
from typing import TYPE_CHECKING

from visionward.machine.python_process import Connection
from visionward.progress import OnProgress, Progress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.process.messages import Advanced, Call, Cancel, Failed, Judged, Loaded, Observed, Start

if TYPE_CHECKING:
    from visionward.runtime.guard.answer import Logits
    from visionward.runtime.guard.guard import Guard


def serve_guard(start: Start, connection: Connection) -> None:
    """Load a guard and answer calls until the parent ends this process. The process's main function."""
    # A service manager stops all processes of a service, and the parent may have a call to finish.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def report(progress: Progress) -> None:
        connection.send(Advanced(progress))

    try:
        guard = _load(start, report if start.reports_progress else None)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        connection.send(Failed.of(error))
        return
    engine = guard.engine
    connection.send(Loaded(engine.model.path.name, engine.device_name, engine.vision_backend))
    cancel = CancelToken()
    while True:
        message = connection.receive()
        if isinstance(message, Cancel):
            cancel.cancel()
        else:
            cancel = CancelToken()
            # This thread goes on receiving, to be able to cancel.
            threading.Thread(target=_answer, args=(guard, start, message, cancel, connection), daemon=True).start()


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
