"""Running a native job in a child process: what it logs and how far it is comes back, and a crash ends only itself.

The child is started anew, never forked (the library's threads would be missing), works in frozen programs, and ends
when its parent does.
"""

import collections
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from visionward.runtime.errors import QuantizeError, VisionwardError

logger = logging.getLogger("visionward.native")

# Waiting without a limit cannot be interrupted on Windows.
_WAIT_S = 0.2
_LINES_KEPT = 4

Send = Callable[[object], None]


@dataclass(frozen=True)
class LogLine:
    """A line that the native library logged."""

    level: int
    text: str


@dataclass(frozen=True)
class _Failed:
    """The job raised an error of ours."""

    reason: str


@dataclass(frozen=True)
class _Finished:
    """The job returned."""


def run_in_child(what: str, job: Callable[..., None], arguments: tuple[Any, ...], receive: Send) -> None:
    """Run ``job(*arguments, send)`` in a child process and wait for it.

    Args:
        what: the job in words, for errors.
        job: a function of a module; it may call ``send`` with anything that can be pickled.
        arguments: what can be pickled too.
        receive: gets what was sent, and a LogLine for each line of the native library's log. What it raises, and an
            interrupt, end the child.

    Raises:
        QuantizeError: if the job fails, or its process crashes.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="visionward-") as folder:
        printed = Path(folder) / "stderr"
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(job, arguments, sender, str(printed)), daemon=True)
        last: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        try:
            try:
                child.start()
            except OSError as error:
                raise QuantizeError(f"{what} could not be started: {error}.") from error
            sender.close()
            finished = _receive_all(receiver, receive, last)
            child.join()
            if not finished or child.exitcode:
                raise QuantizeError(f"{what} {_end(child.exitcode)}: {_last_words(printed, last)}.")
        finally:
            receiver.close()
            with contextlib.suppress(ValueError, AttributeError):  # it was never started
                child.kill()
                child.join()


def _receive_all(receiver: Connection, receive: Send, last: collections.deque[str]) -> bool:
    """Hand on what the child sends until it ends; whether it said that it finished."""
    while True:
        if not receiver.poll(_WAIT_S):
            continue
        try:
            message = receiver.recv()
        except (EOFError, ConnectionError):
            return False
        if isinstance(message, _Finished):
            return True
        if isinstance(message, _Failed):
            raise QuantizeError(message.reason)
        if isinstance(message, LogLine):
            last.append(message.text)
            logger.log(message.level, "%s", message.text)
        receive(message)


def _end(exit_code: int | None) -> str:
    """How a child ended that had not finished."""
    if exit_code is not None and exit_code < 0:
        try:
            return f"crashed ({signal.Signals(-exit_code).name})"
        except ValueError:
            return f"crashed (signal {-exit_code})"
    return f"ended too early (exit code {exit_code})"


def _last_words(printed: Path, last: collections.deque[str]) -> str:
    """What the child printed (an assertion, mostly) and logged at the end."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = printed.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in (*last, *lines[-_LINES_KEPT:]) if line.strip()]
    return "; ".join(said[-_LINES_KEPT:]) or "it said nothing"


def _child(job: Callable[..., None], arguments: tuple[Any, ...], sender: Connection, printed: str) -> None:
    _prepare(printed)
    try:
        job(*arguments, sender.send)
        sender.send(_Finished())
    except VisionwardError as error:
        sender.send(_Failed(str(error)))
    sender.close()


class _SendLog(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line; a parent that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self._send(LogLine(record.levelno, record.getMessage()))


def route_log(send: Send) -> None:
    """In the child: send what the native library logs."""
    logger.addHandler(_SendLog(send))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def _prepare(printed: str) -> None:
    """No core file, no dialog, nothing on the terminal; interrupts are the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["GGML_NO_BACKTRACE"] = "1"
    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(descriptor, stream)
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        ctypes.windll.kernel32.SetErrorMode(0x0001 | 0x0002)
    else:
        import resource  # noqa: PLC0415 - not on Windows

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
