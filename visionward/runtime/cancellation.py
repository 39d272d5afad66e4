"""Ending a computation from another thread: a flag that native code reads without the GIL, and a token for callers."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from visionward.errors import ClassificationCancelledError


class Cancelled(BaseException):
    """Raised inside a job whose flag was set. No caller of the public API sees it."""


class CancelFlag:
    """A byte that is 0 until the flag is set, at an address that native code can read."""

    def __init__(self) -> None:
        # Two bytes: as a C string it has length 0, and 1 once the flag is set.
        self._byte = ctypes.create_string_buffer(2)

    @property
    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._byte.raw[0] != 0

    @property
    def address(self) -> int:
        """Where the byte is, as long as this object lives."""
        return ctypes.addressof(self._byte)

    def set(self) -> None:
        """Set the flag; it stays set."""
        self._byte[0] = b"\x01"


class CancelToken:
    """Ends classifications that were started with it. Any thread, and a signal handler, may cancel.

    For example:

        cancel = CancelToken()
        threading.Timer(5, cancel.cancel).start()
        guard.classify(image="photo.jpg", prompt="...", cancel=cancel)  # raises ClassificationCancelledError after 5 s

    A token stays cancelled: take a new one for the next classification.
    """

    def __init__(self) -> None:
        # No lock: a signal handler may cancel while the thread that it interrupted is inside `attached`.
        self._cancelled = False
        self._flags: set[CancelFlag | CancelToken] = set()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End what runs or waits with this token, and whatever is started with it later."""
        self._cancelled = True
        for flag in tuple(self._flags):
            flag.set()

    def set(self) -> None:
        """The same as ``cancel``: a token can be attached to another one."""
        self.cancel()

    @contextmanager
    def attached(self, flag: "CancelFlag | CancelToken") -> Iterator[None]:
        """Set a flag or cancel a token when this one is cancelled, or at once if it is already."""
        self._flags.add(flag)
        try:
            if self._cancelled:
                flag.set()
            yield
        finally:
            self._flags.discard(flag)

    def raise_if_cancelled(self) -> None:
        """Between the steps of a classification.

        Raises:
            ClassificationCancelledError: if ``cancel`` was called.
        """
        if self._cancelled:
            raise ClassificationCancelledError("the classification was cancelled.")


def abort_callback() -> Any:
    """A ``ggml_abort_callback`` whose data is the address of a ``CancelFlag``.

    It is the C library's ``strlen``: nonzero once the flag is set. ggml asks it before every node of a graph, and a
    Python function would need the GIL each time.
    """
    return (ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)).strlen
