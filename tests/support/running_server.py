"""A server on loopback in a thread of this process, and guards without a model for it."""

import asyncio
import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fake_guard import SAFE, UNSAFE

from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.verdict import Verdict
from visionward.serve.application import application
from visionward.serve.json_log import JsonLog
from visionward.serve.model_list import ModelList
from visionward.serve.server import HttpServer, bind
from visionward.serve.server_settings import ServerSettings
from visionward.serve.service import AsyncGuard, Service

SCORES = dict.fromkeys(DEFAULT_POLICY.codes, 0.01)
MODELS = ModelList("guard", ("meta-llama/Llama-Guard-3-11B-Vision-Turbo",), created=1)


def words(text: str) -> Verdict:
    """Unsafe where the text has the word."""
    scored = replace(UNSAFE if "unsafe" in text else SAFE, warnings=(), category_scores=SCORES)
    return replace(scored, role="User")


class WordGuard:
    """Judges by words: ``unsafe`` is unsafe, ``wait`` waits for ``release``, and ``error`` raises what ``error`` is.

    Attributes:
        is_available: as a guard's.
        history: every conversation, with its options.
        cancelled: how many classifications were cancelled.
        running: how many are under way.
    """

    def __init__(self, judge: Callable[[str], Verdict] = words) -> None:
        self._judge = judge
        self.release = threading.Event()
        self.is_available = True
        self.error: Exception = RuntimeError("the secret text of a conversation")
        self.history: list[tuple[Any, dict[str, Any]]] = []
        self.cancelled = 0
        self.running = 0

    async def aclassify(self, conversation: Any, **options: Any) -> Verdict:
        """As ``Guard.aclassify``."""
        self.history.append((conversation, options))
        text = " ".join(conversation.texts)
        self.running += 1
        try:
            while "wait" in text and not self.release.is_set():
                await asyncio.sleep(0.005)
            if "error" in text:
                raise self.error
            return self._judge(text)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


class RunningServer:
    """A server that runs until the context ends.

    Args:
        guard: judges.
        settings: of ``ServerSettings``.
    """

    def __init__(self, guard: AsyncGuard, downloader: Any = None, grace_s: int = 20, **settings: Any) -> None:
        self.guard = guard
        self.service = Service(guard, ServerSettings(**{"models": MODELS, **settings}), downloader)
        self._lines = io.StringIO()
        self._socket = bind("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        log = JsonLog(self._lines)
        self.server = HttpServer(application(self.service, log), self.service.queue, log, grace_s)
        self._thread = threading.Thread(target=self.server.serve_until_stopped, args=(self._socket,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "RunningServer":
        self._thread.start()
        until(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return [json.loads(line) for line in self._lines.getvalue().splitlines()]

    def request(
        self, method: str, path: str, body: bytes | dict | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request on a connection of its own: status, headers and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"Content-Type": "application/json", **named})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def chat(self, text: str, **values: Any) -> tuple[int, dict[str, Any]]:
        """One chat completion: status and body."""
        asked = {"model": "guard", "messages": [{"role": "user", "content": text}], **values}
        status, _, body = self.request("POST", "/v1/chat/completions", asked)
        return status, json.loads(body)


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
