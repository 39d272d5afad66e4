"""Clients of all kinds for the soak: well-behaved, slow, vanishing, mistaken and malicious ones."""

import base64
import http.client
import json
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from urllib.parse import urlsplit

from served_demo import HOSTED_NAME, KEY

SAMPLES = resources.files("visionward") / "demo_guard" / "samples"
_WORDS = ("the", "ring", "of", "the", "moon", "and", "a", "leaf", "under", "this", "tree", "shows", "me", "where")
TIMEOUT_S = 120


@dataclass
class Tally:
    """What came of the requests.

    Attributes:
        kinds: how many of each kind there were.
        wrong: what should not have happened.
        times_ms: of well-behaved chats, by number of images.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    times_ms: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class SoakClient:
    """Sends one request after another, each of a kind drawn by chance.

    Attributes:
        url: the base URL.
        chance: draws.
        tally: gets the results.
    """

    url: str
    chance: random.Random
    tally: Tally

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        self._address = (parts.hostname, parts.port)
        self._connection = self._connect()
        self._images = [
            "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
            for path in sorted(SAMPLES.iterdir(), key=lambda path: path.name)
            if path.name.endswith(".jpg")
        ]

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)

    def one(self) -> None:
        """One request."""
        kinds: dict[Callable[[], None], int] = {
            self.chat: 50,
            self.stream: 6,
            self.moderation: 6,
            self.slow: 7,
            self.vanishing: 12,
            self.malformed: 8,
            self.wrong_key: 5,
            self.too_large: 3,
            self.other_url: 3,
        }
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        name = kind.__name__
        self.tally.kinds[name] = self.tally.kinds.get(name, 0) + 1
        try:
            kind()
        except (OSError, http.client.HTTPException) as error:
            self.tally.wrong.append(f"{name}: {type(error).__name__}: {error}")
            self._connection = self._connect()

    def _text(self) -> str:
        return " ".join(self.chance.choices(_WORDS, k=self.chance.choice((1, 5, 20, 50, 200))))

    def _messages(self) -> tuple[list[dict[str, object]], int]:
        images = self.chance.choices((0, 1), (4, 1))[0]
        content: list[dict[str, object]] = [
            {"type": "image_url", "image_url": {"url": self.chance.choice(self._images)}} for _ in range(images)
        ]
        messages: list[dict[str, object]] = [
            {"role": "user", "content": [*content, {"type": "text", "text": self._text()}]}
        ]
        if self.chance.random() < 0.4:
            messages.append({"role": "assistant", "content": self._text()})
        return messages, images

    def _body(self, **values: object) -> bytes:
        return json.dumps({"model": HOSTED_NAME, "messages": self._messages()[0], **values}).encode()

    def _ask(self, method: str, path: str, body: bytes | None, expected: int, key: str = KEY) -> bytes:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        found = response.read()
        if response.status != expected:
            self.tally.wrong.append(f"{path}: status {response.status}, expected {expected}: {found[:200]!r}")
        if response.status >= 400 and set(json.loads(found)) != {"error"}:
            self.tally.wrong.append(f"{path}: not an error of OpenAI's: {found[:200]!r}")
        return found

    def chat(self) -> None:
        """A chat completion."""
        messages, images = self._messages()
        body = json.dumps({"model": HOSTED_NAME, "messages": messages, "logprobs": True}).encode()
        started = time.perf_counter()
        found = json.loads(self._ask("POST", "/v1/chat/completions", body, 200))
        self.tally.times_ms.setdefault(images, []).append((time.perf_counter() - started) * 1000)
        self._check(found["choices"][0]["message"]["content"])

    def _check(self, content: str) -> None:
        if content != "safe" and not content.startswith("unsafe"):
            self.tally.wrong.append(f"an answer that is none: {content!r}")

    def stream(self) -> None:
        """A chat completion as a stream."""
        found = self._ask("POST", "/v1/chat/completions", self._body(stream=True), 200).decode()
        *events, done = [line.removeprefix("data: ") for line in found.split("\n\n") if line]
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
        self._check("".join(delta.get("content") or "" for delta in deltas))
        if done != "[DONE]":
            self.tally.wrong.append("a stream without an end")

    def moderation(self) -> None:
        """A moderation of one to three texts."""
        texts = [self._text() for _ in range(self.chance.randint(1, 3))]
        found = json.loads(self._ask("POST", "/v1/moderations", json.dumps({"input": texts}).encode(), 200))
        if len(found["results"]) != len(texts):
            self.tally.wrong.append("a moderation without all results")

    def _raw(self, body: bytes, announced: int | None = None) -> tuple[socket.socket, bytes]:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body) if announced is None else announced}\r\n\r\n"
        )
        return socket.create_connection(self._address, timeout=TIMEOUT_S), head.encode() + body

    def slow(self) -> None:
        """A chat completion whose bytes come in pieces, with pauses."""
        connection, data = self._raw(self._body())
        with connection:
            size = max(1, len(data) // self.chance.randint(2, 8))
            for start in range(0, len(data), size):
                connection.sendall(data[start : start + size])
                time.sleep(self.chance.random() * 0.05)
            answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.tally.wrong.append(f"a slow client got {answer[:200]!r}")

    def vanishing(self) -> None:
        """A client that goes away while it sends, waits or reads."""
        connection, data = self._raw(self._body())
        with connection:
            connection.sendall(data[: self.chance.choice((10, len(data) // 2, len(data), len(data), len(data)))])
            time.sleep(self.chance.random() * 0.1)
            if self.chance.random() < 0.5:
                # The connection is reset, not closed.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def malformed(self) -> None:
        """A body that is no request."""
        whole = self._body()
        cut = whole[: self.chance.randrange(len(whole))]
        noise = self.chance.randbytes(self.chance.randrange(200))
        messages = {"model": HOSTED_NAME, "messages": self.chance.choice(([], "x", [1], [{"role": "user"}], None))}
        body = self.chance.choice((cut, noise, json.dumps(messages).encode(), self._body(colour=1), b"[" * 5000))
        self._ask("POST", "/v1/chat/completions", body, 400)

    def wrong_key(self) -> None:
        """A request with a wrong key."""
        self._ask("POST", "/v1/chat/completions", self._body(), 401, key=self.chance.choice(("x", KEY + "x", KEY[:-1])))

    def too_large(self) -> None:
        """A body beyond the limit."""
        self._ask("POST", "/v1/chat/completions", b" " * self.chance.randint(2**20 + 1, 2**21), 413)

    def other_url(self) -> None:
        """A URL or a method that there is not."""
        method, path, expected = self.chance.choice(
            (("GET", "/v1/nothing", 404), ("GET", "/v1/moderations", 405), ("GET", "/v1/models/gpt", 404))
        )
        self._ask(method, path, None, expected)
