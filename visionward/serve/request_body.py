"""Reading the body of a request: within a size, within a time, or until the client has gone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.requests import ClientDisconnect, Request

from visionward.serve.api_error import ApiError
from visionward.serve.byte_budget import ByteBudget
from visionward.serve.client_connection import ClientGoneError

BODY_TIMEOUT_S = 60.0
# A client that sends too much reads the answer only once it has sent everything.
DISCARD_TIMEOUT_S = 5.0
MAX_DISCARDED_BYTES = 256 * 2**20


@asynccontextmanager
async def request_body(request: Request, max_bytes: int, budget: ByteBudget) -> AsyncIterator[bytes]:
    """The body, which is counted in the budget for as long as the context lasts.

    Raises:
        ApiError: it is too large (413), too slow (408), of another media type (415), or the budget is spent (429).
        ClientGoneError: the client has gone.
    """
    _check_media_type(request)
    body = bytearray()
    try:
        try:
            with anyio.fail_after(BODY_TIMEOUT_S):
                await _read(request, body, max_bytes, budget)
        except ClientDisconnect:
            raise ClientGoneError from None
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s.", code="request_timeout"
            ) from None
        yield bytes(body)
    finally:
        budget.give_back(len(body))


async def _read(request: Request, body: bytearray, max_bytes: int, budget: ByteBudget) -> None:
    announced = request.headers.get("content-length", "")
    stream = request.stream()
    if announced.isdecimal() and int(announced) > max_bytes:
        await _discard(stream)
        raise _too_large(max_bytes)
    async for chunk in stream:
        if len(body) + len(chunk) > max_bytes:
            await _discard(stream)
            raise _too_large(max_bytes)
        try:
            budget.take(len(chunk))
        except ApiError:
            await _discard(stream)
            raise
        body += chunk


async def _discard(stream: AsyncIterator[bytes]) -> None:
    discarded = 0
    with anyio.move_on_after(DISCARD_TIMEOUT_S):
        async for chunk in stream:
            discarded += len(chunk)
            if discarded > MAX_DISCARDED_BYTES:
                return


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {max_bytes:,} bytes, which is this server's limit.", code="request_too_large"
    )


def _check_media_type(request: Request) -> None:
    """JSON alone: a web page can have a visitor's browser send any other type without asking the server first."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            f"the content type is {media_type[:60]!r}, expected 'application/json'.",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "the body is compressed, which is not supported.", code="unsupported_media_type")
