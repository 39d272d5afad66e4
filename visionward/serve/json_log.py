"""A log of JSON lines. Nothing of what clients send is in it."""

import contextlib
import json
import threading
import traceback
from datetime import datetime, timezone
from typing import Any, TextIO

from visionward.errors import VisionwardError


class JsonLog:
    """Writes one JSON object a line.

    Args:
        stream: where to; None for nowhere.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, event: str, **values: Any) -> None:
        """Write a line. What cannot be written is lost: a full disk must not stop the server.

        Args:
            event: what happened.
            values: more about it; None is left out.
        """
        if self._stream is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        kept = {key: value for key, value in values.items() if value is not None}
        line = json.dumps({"time": now, "event": event, **kept})
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


def described(error: Exception) -> dict[str, Any]:
    """The fields of an error that no client caused.

    The sentence of our own errors is one of them. Any other message is left out: it may quote a conversation.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "message": str(error) if isinstance(error, VisionwardError) else None,
        "places": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
