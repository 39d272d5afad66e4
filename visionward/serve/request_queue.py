"""The queue in front of the guard: one request computes, a bounded number waits in order."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from visionward.serve.api_error import ApiError

# Nobody should come back sooner than after this, nor be sent away for longer.
MIN_RETRY_S, MAX_RETRY_S = 1, 300
# How much the newest turn counts in the average.
_NEWEST = 0.2


class RequestQueue:
    """Gives requests their turns, one at a time and first come, first served. To be used in one event loop.

    Args:
        max_waiting: requests that may wait; one more is refused.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running = False
        self._closed = False
        self._average_s = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many requests have their turn: one or none."""
        return int(self._running)

    @property
    def closed(self) -> bool:
        """Whether no further request gets a turn."""
        return self._closed

    def check_room(self) -> None:
        """Check that a request would be let in.

        Raises:
            ApiError: the queue is full (status 429) or closed (status 503).
        """
        if self._closed:
            raise _shutting_down()
        if self._running and len(self._waiting) >= self._max_waiting:
            raise ApiError(
                429,
                f"{len(self._waiting)} requests are waiting already; try again later.",
                code="queue_full",
                retry_after_s=self._retry_after_s(),
            )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn, and have it for as long as the context lasts.

        Yields:
            The milliseconds that it waited.

        Raises:
            ApiError: the queue is full (status 429), or was closed before the turn came (status 503).
        """
        self.check_room()
        came = time.perf_counter()
        if self._running:
            await self._wait()
        self._running = True
        started = time.perf_counter()
        try:
            yield (started - came) * 1000
        finally:
            self._average_s += _NEWEST * (time.perf_counter() - started - self._average_s)
            self._pass_on()

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come in the same moment.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running = False

    def close(self) -> None:
        """Refuse who waits and who comes. Who has a turn keeps it."""
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(_shutting_down())

    def _retry_after_s(self) -> int:
        expected = self._average_s * (len(self._waiting) + 1)
        return min(MAX_RETRY_S, max(MIN_RETRY_S, math.ceil(expected)))


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down; try again later.", code="shutting_down", retry_after_s=5)
