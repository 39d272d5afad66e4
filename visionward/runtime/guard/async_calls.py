"""Classifying from asyncio: the call runs on a thread of its own, and cancelling the task cancels it."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from visionward.runtime.cancellation import CancelToken

T = TypeVar("T")


async def run_in_thread(work: Callable[[CancelToken], T], cancel: CancelToken | None) -> T:
    """Run ``work(token)`` on a new thread and wait for its result.

    A thread per call, because calls that wait for their turn would fill the event loop's pool, which other code needs.

    Args:
        work: is told by the token that the task was cancelled. The task does not wait for its end.
        cancel: another token that ends the work.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    token = CancelToken()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there is a result if there is no error

    def run() -> None:
        result, error = None, None
        try:
            with contextlib.nullcontext() if cancel is None else cancel.attached(token):
                result = work(token)
        except BaseException as raised:  # noqa: BLE001 - raised again in the task
            error = raised
        # The event loop may have been closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, result, error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="visionward-call", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        token.cancel()
        raise
