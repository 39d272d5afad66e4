"""Progress of long work as one line on standard error, if that is a terminal.

Every command that takes long passes the callback on to the library::

    with progress_line() as on_progress:
        guard = Guard.load(text, mmproj, on_progress=on_progress)
        verdict = guard.classify(image=image, prompt=prompt, on_progress=on_progress)
    click.echo(verdict)

The line looks like ``vision   43 %   14 of 32 layers   2.1 layers/s   9 s left``. It is rewritten in place, never
wraps, and is cleared when the block ends. Print after the block, not inside it.

``on_progress`` is None, and nothing is written, if standard error is not a terminal, if the terminal cannot rewrite a
line (``TERM=dumb``), and with ``--verbose``, whose log goes to the same place.
"""

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from visionward.progress import OnProgress, Progress
from visionward.quantities import percent_text, size_text, time_left_text

# Rewriting the line more often than this costs time and is not seen.
_INTERVAL_S = 0.1
# The rate is measured over this time, so that it follows a machine that becomes slower.
_WINDOW_S = 20.0
# Before this, a rate says more of the beginning than of the stage.
_MIN_MEASURED_S = 1.0
_SEPARATOR = "   "
_DEFAULT_COLUMNS = 80


@contextlib.contextmanager
def progress_line() -> Iterator[OnProgress | None]:
    """A callback that draws a line on standard error; None if nobody would see it (see the module's docstring)."""
    if not _visible(sys.stderr):
        yield None
        return
    line = ProgressLine(sys.stderr)
    try:
        yield line.update
    finally:
        line.clear()


def _visible(stream: TextIO) -> bool:
    try:
        terminal = stream.isatty()
    except ValueError:  # closed
        return False
    return terminal and os.environ.get("TERM") != "dumb" and not logging.getLogger().isEnabledFor(logging.DEBUG)


class ProgressLine:
    """One line of a terminal that shows how far a stage is.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._estimate = RateEstimate()
        self._began_at = 0.0
        self._drawn_at = float("-inf")
        self._stage: tuple[str, int, str] | None = None
        self._width = 0
        self._broken = False

    def update(self, progress: Progress) -> None:
        """Show how far a stage is; too frequent reports of one stage are passed over. Takes no time worth measuring."""
        now = time.monotonic()
        with self._lock:
            stage = (progress.stage, progress.total, progress.unit)
            if stage != self._stage:
                self._stage, self._estimate, self._drawn_at = stage, RateEstimate(), float("-inf")
                self._began_at = now
            self._estimate.add(now, progress.done)
            if now - self._drawn_at >= _INTERVAL_S or progress.done >= progress.total:
                self._drawn_at = now
                elapsed = now - self._began_at
                self._draw(line_text(progress, self._estimate.rate, _columns(self._stream), elapsed))

    def clear(self) -> None:
        """Remove the line."""
        with self._lock:
            self._draw("")
            self._write("\r")

    def _draw(self, text: str) -> None:
        # Blanks instead of an escape sequence: every terminal knows them.
        self._write(f"\r{text}{' ' * (self._width - len(text))}")
        self._width = len(text)

    def _write(self, text: str) -> None:
        if self._broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # The terminal has gone; the work goes on.
            self._broken = True


class RateEstimate:
    """Units per second, measured over the last seconds of a stage."""

    def __init__(self) -> None:
        self._measured: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note how many units are done at a time (seconds of a monotonic clock)."""
        if self._measured and self._measured[-1][0] > now - _INTERVAL_S and len(self._measured) > 1:
            self._measured[-1] = (now, done)
        else:
            self._measured.append((now, done))
        while len(self._measured) > 2 and self._measured[1][0] <= now - _WINDOW_S:
            self._measured.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second; None until enough was measured."""
        if not self._measured:
            return None
        (first_time, first), (last_time, last) = self._measured[0], self._measured[-1]
        elapsed = last_time - first_time
        return (last - first) / elapsed if elapsed >= _MIN_MEASURED_S and last > first else None


def line_text(progress: Progress, rate: float | None, columns: int, elapsed: float = 0.0) -> str:
    """The line, as much of it as fits: the rate is left out first, then the counts, then the time.

    Args:
        progress: what to show.
        rate: units per second, as measured; None if it is not known yet.
        columns: width of the terminal.
        elapsed: seconds since the stage began, shown as long as no rate is known.
    """
    share = progress.done / progress.total if progress.total else 1.0
    start = f"{progress.stage}{_SEPARATOR}{percent_text(share):>5}"
    left = ""
    if share < 1 and rate:
        left = f"{time_left_text((progress.total - progress.done) / rate)} left"
    elif share < 1 and elapsed >= _MIN_MEASURED_S:
        left = f"{time_left_text(elapsed)} elapsed"
    speed = "" if not rate else f"{_amount(rate, progress.unit)}/s"
    for parts in ((_counts(progress), speed, left), (_counts(progress), left), (left,), ()):
        text = _SEPARATOR.join([start, *filter(None, parts)])
        # A character in the last column would begin a new line on some terminals.
        if len(text) < columns:
            return text
    return start[: max(0, columns - 1)]


def _counts(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{size_text(progress.done)} of {size_text(progress.total)}"
    return f"{progress.done:,} of {progress.total:,} {progress.unit}"


def _amount(rate: float, unit: str) -> str:
    if unit == "bytes":
        return size_text(rate)
    return f"{rate:,.0f} {unit}" if rate >= 10 else f"{rate:.1f} {unit}"


def _columns(stream: TextIO) -> int:
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size((_DEFAULT_COLUMNS, 24)).columns
