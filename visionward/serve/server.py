"""Running the application: a listening socket, signals, and an end in good order."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from visionward.errors import VisionwardError
from visionward.serve.json_log import JsonLog
from visionward.serve.request_queue import RequestQueue

# An idle connection is closed after this time; the official clients open a new one without a word.
KEEP_ALIVE_S = 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ListenError(VisionwardError, OSError):
    """The server cannot listen at an address."""


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet: who connects before the model is loaded is refused.

    Args:
        host: a name or an address.
        port: 0 for one that is free.

    Raises:
        ListenError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise ListenError(f"cannot listen at {host}, port {port}: {cause.strerror or cause}.") from cause
    try:
        # On Windows SO_REUSEADDR would let two servers have one address.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except (OSError, OverflowError) as cause:
        bound.close()
        raise ListenError(f"cannot listen at {host}, port {port}: {getattr(cause, 'strerror', cause)}.") from cause
    return bound


class HttpServer(uvicorn.Server):
    """A server that finishes what runs when it is told to stop, and refuses the rest.

    Args:
        app: the application.
        queue: closed by the first SIGTERM or SIGINT.
        log: gets what uvicorn has to say.
        grace_s: seconds that running requests may take after the signal; then they are cancelled.
    """

    def __init__(self, app: ASGIApp, queue: RequestQueue, log: JsonLog, grace_s: int) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
        )
        super().__init__(config)
        self._queue = queue
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_started: Callable[[], None] | None = None

    def serve_until_stopped(self, bound: socket.socket, on_started: Callable[[], None] | None = None) -> None:
        """Answer requests until a signal.

        Args:
            bound: as `bind` gave it; closed at the end.
            on_started: called when clients can connect.
        """
        self._on_started = on_started
        with _uvicorn_logs_to(self._log):
            self.run(sockets=[bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests in a running event loop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def stop(self) -> None:
        """Finish what runs, and refuse the rest. Any thread may call it; calling it again does nothing."""
        if self._loop is not None and not self.should_exit:
            # Not at once: a signal may have come while the log or the queue was in use.
            self._loop.call_soon_threadsafe(self._begin_to_stop)
        self.should_exit = True

    def _begin_to_stop(self) -> None:
        self._queue.close()
        self._log.write("stopping")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The handler of signals: the first stops, a second interrupt does not wait."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again at the end, which would end the program before the guard is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _uvicorn_logs_to(log: JsonLog) -> Iterator[None]:
    """Have warnings of uvicorn in the log. Its tracebacks are left out: they may quote a conversation."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.write("server", level=record.levelname, message=str(record.msg).partition("\n")[0])

    logger, handler = logging.getLogger("uvicorn"), Handler(logging.WARNING)
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)
