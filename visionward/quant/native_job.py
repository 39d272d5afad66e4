"""Run a job of the native library in a child process: a crash ends only the child, and its log comes back."""

import collections
import contextlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from visionward.errors import QuantizeError, VisionwardError
from visionward.machine.python_process import PythonProcess, Sender, exit_text

logger = logging.getLogger("visionward.native")

# Lines of output that an error message quotes.
_QUOTED_LINES = 4

Send = Callable[[object], None]


@dataclass(frozen=True)
class LogLine:
    """A line that the native library logged."""

    level: int
    text: str


@dataclass(frozen=True)
class _Failed:
    """The job raised a VisionwardError."""

    reason: str


@dataclass(frozen=True)
class _Finished:
    """The job returned."""


def run_in_child(description: str, job: Callable[..., None], arguments: tuple[Any, ...], receive: Send) -> None:
    """Run ``job(*arguments, send)`` in a child process and wait for it.

    Args:
        description: the job in words, for error messages.
        job: a module-level function. It may call ``send`` with anything that can be pickled.
        arguments: anything that can be pickled.
        receive: called with everything that was sent, and with a LogLine for each line of the native library's log. If
            it raises, or on an interrupt, the child is ended.

    Raises:
        QuantizeError: if the job fails, or its process crashes.
    """
    last_lines: collections.deque[str] = collections.deque(maxlen=_QUOTED_LINES)
    with tempfile.TemporaryFile() as output:
        try:
            child = PythonProcess(_child, (job, arguments), output)
        except OSError as error:
            raise QuantizeError(f"{description} could not be started: {error.strerror or error}.") from error
        try:
            finished = _receive_all(child, receive, last_lines)
            exit_code = child.wait()
            if not finished or exit_code:
                raise QuantizeError(f"{description} failed ({exit_text(exit_code)}): {_tail(output, last_lines)}.")
        finally:
            child.close()


def _receive_all(child: PythonProcess, receive: Send, last_lines: collections.deque[str]) -> bool:
    """Pass on what the child sends until it ends. Returns whether the job finished."""
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
            last_lines.append(message.text)
            logger.log(message.level, "%s", message.text)
        receive(message)


def _tail(output: IO[bytes], last_lines: collections.deque[str]) -> str:
    """The last lines that the child logged and printed; a failed assertion is among the printed ones."""
    output.seek(0)
    printed = output.read().decode("utf-8", "replace").split("\n")
    lines = [line.strip() for line in (*last_lines, *printed[-_QUOTED_LINES:]) if line.strip()]
    return "; ".join(lines[-_QUOTED_LINES:]) or "no output"


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
        """Send a line. If the parent is gone, the line is lost."""
        with contextlib.suppress(OSError):
            self._send(LogLine(record.levelno, record.getMessage()))


def route_log(send: Send) -> None:
    """In the child: send what the native library logs."""
    logger.addHandler(_SendLog(send))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
