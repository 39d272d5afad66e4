"""One line of the log and one count of the metrics for every request, and an id in its answer."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionward.runtime.guard.verdict import Verdict
from visionward.serve.json_log import JsonLog, described
from visionward.serve.metrics import Metrics
from visionward.serve.web_page import PAGE_FILES

# Nothing else of a path is logged or counted: clients choose it.
_ROUTES = (
    *("/v1/chat/completions", "/v1/moderations", "/v1/models", "/healthz", "/readyz", "/metrics"),
    *PAGE_FILES,
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
_KEY = "visionward.record"
# Web servers use this number for a client that went away before it had its answer.
STATUS_CLIENT_GONE = 499


@dataclass
class RequestRecord:
    """What is known of a request.

    Attributes:
        method: GET or POST; "other" for a method that HTTP does not have.
        route: the path, if it is one of the server's.
        id: of the request, as in the header ``x-request-id`` of its answer.
        status: of the answer; 0 before it has one.
        code: OpenAI's word for the error.
        verdicts: what was judged.
        queue_ms: how long it waited.
        failure: what went wrong in the server.
    """

    method: str
    route: str
    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    code: str | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    queue_ms: float | None = None
    failure: Exception | None = None

    @classmethod
    def of(cls, scope: Scope) -> "RequestRecord":
        """The record of the request whose scope this is."""
        return cast("RequestRecord", scope[_KEY])

    def values(self) -> dict[str, Any]:
        """The fields of its line in the log."""
        verdicts = self.verdicts
        return {
            "id": self.id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "code": self.code,
            "ms": _rounded((time.perf_counter() - self.started) * 1000),
            "queue_ms": None if self.queue_ms is None else _rounded(self.queue_ms),
            "verdicts": [verdict.verdict for verdict in verdicts] or None,
            "guard_ms": _rounded(sum(verdict.timings_ms.total for verdict in verdicts)) if verdicts else None,
            "tiles": sum(verdict.tiles for verdict in verdicts) if verdicts else None,
            "prompt_tokens": sum(verdict.tokens.prompt for verdict in verdicts) if verdicts else None,
        }


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 2)


class Recorded:
    """An application whose requests are recorded.

    Args:
        application: the one inside.
        log: gets a line for every request.
        metrics: count it.
    """

    def __init__(self, application: ASGIApp, log: JsonLog, metrics: Metrics) -> None:
        self._application = application
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        record = scope[_KEY] = RequestRecord(_method(scope["method"]), _route(scope["path"]))

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            await self._application(scope, receive, send_recorded)
        finally:
            self._metrics.count_request(record.route, record.status, time.perf_counter() - record.started)
            for verdict in record.verdicts:
                self._metrics.count_verdict(verdict, record.queue_ms or 0.0)
            if record.failure is not None:
                self._log.write("failure", id=record.id, **described(record.failure))
            self._log.write("request", **record.values())


def _method(method: str) -> str:
    return method if method in _METHODS else "other"


def _route(path: str) -> str:
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return path if path in _ROUTES else "other"
