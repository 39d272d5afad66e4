"""Running a native job in a child process: what it logs and how far it is comes back, and a crash ends only itself."""

import collections
import contextlib
import logging
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from visionward.errors import QuantizeError, VisionwardError
from visionward.machine.python_process import PythonProcess, Sender

logger = logging.getLogger("visionward.native")

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
    last: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
    with tempfile.TemporaryFile() as printed:
        try:
            child = PythonProcess(_child, (job, arguments), printed)
        except OSError as error:
            raise QuantizeError(f"{what} could not be started: {error.strerror or error}.") from error
        try:
            finished = _receive_all(child, receive, last)
            exit_code = child.wait()
            if not finished or exit_code:
                raise QuantizeError(f"{what} {_end(exit_code)}: {_last_words(printed, last)}.")
        finally:
            child.close()


def _receive_all(child: PythonProcess, receive: Send, last: collections.deque[str]) -> bool:
    """Hand on what the child sends until it ends; whether it said that it finished."""
    while True:
        try:
            message = child.receive()
        except EOFError:
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


def _last_words(printed: IO[bytes], last: collections.deque[str]) -> str:
    """What the child printed (an assertion, mostly) and logged at the end."""
    printed.seek(0)
    lines = printed.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in (*last, *lines[-_LINES_KEPT:]) if line.strip()]
    return "; ".join(said[-_LINES_KEPT:]) or "it said nothing"


def _child(job: Callable[..., None], arguments: tuple[Any, ...], sender: Sender) -> None:
    try:
        job(*arguments, sender.send)
        sender.send(_Finished())
    except VisionwardError as error:
        sender.send(_Failed(str(error)))


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
