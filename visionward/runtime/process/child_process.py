"""A started guard's process, with the last lines that it printed."""

import collections
import contextlib
import logging
import os
import threading
from typing import Any

from visionward.machine.python_process import PythonProcess, exit_text
from visionward.runtime.process.child import serve_guard
from visionward.runtime.process.messages import Start

logger = logging.getLogger("visionward.process")

# What is quoted where the process crashed.
MAX_LINES = 4
# A longer line is cut into several.
MAX_LINE_BYTES = 4096
# Output and process end at nearly the same time. A forked copy of the process could keep the pipe open.
_END_S = 10.0
_OUTPUT_END_S = 1.0

_HINTS = {"SIGKILL": "SIGKILL, by which the system ends processes when memory runs out"}


class ChildProcess:
    """The process of one guard. What it prints is logged as ``visionward.process``, level DEBUG.

    Args:
        start: what it loads.
        descriptors: file descriptors that it inherits.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, start: Start, descriptors: tuple[int, ...]) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=MAX_LINES)
        reader, writer = os.pipe()
        self._output = threading.Thread(target=self._read, args=(reader,), name="visionward-output", daemon=True)
        self._output.start()
        try:
            self._process = PythonProcess(serve_guard, (start,), writer, descriptors)
        finally:
            os.close(writer)

    def _read(self, reader: int) -> None:
        with open(reader, "rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                text = line.decode("utf-8", "replace").strip()
                if text:
                    self._lines.append(text)
                    logger.debug("%s", text)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.wait(0) is not None

    def send(self, message: object) -> None:
        """Send a message. If the process has ended, ``receive`` says so."""
        with contextlib.suppress(OSError):
            self._process.send(message)

    def receive(self, timeout_s: float) -> Any:
        """The next message.

        Raises:
            TimeoutError: if none came in this time.
            EOFError: if the process has ended.
        """
        return self._process.receive(timeout_s)

    def end_text(self) -> str:
        """After EOFError: how the process ended, and the last lines that it printed."""
        how = exit_text(self._process.wait(_END_S))
        self._output.join(_OUTPUT_END_S)
        printed = "; ".join(tuple(self._lines)) or "no output"
        return f"{_HINTS.get(how, how)}: {printed}"

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.close()
