"""Short waits for the GIL while an engine computes.

The decoder asks Python at each cross-attention layer, and a busy Python thread of the host program lets others have the
GIL only every 5 ms, Python's default. On one core a token of the answer then took twice as long. With 0.1 ms a
classification takes no longer than beside the same work in another process (benchmarks/host_load.py).
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL_S = 1e-4


class _Shortened:
    """The interval is the interpreter's: it is restored after the last of several engines' computations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0
        self._set = 0.0

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(INTERVAL_S, self._before))
                # Python rounds it to microseconds.
                self._set = sys.getswitchinterval()

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            # Another value is one that the host program has set meanwhile.
            if self._users == 0 and sys.getswitchinterval() == self._set:
                sys.setswitchinterval(self._before)


_shortened = _Shortened()


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Threads give up the GIL after at most 0.1 ms inside the ``with`` block."""
    _shortened.begin()
    try:
        yield
    finally:
        _shortened.end()
