"""Processor time that other programs used while something ran."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
# Columns of the line "cpu": user, nice, system, idle, iowait, irq, softirq, steal. The others are included in user.
_IDLE = (3, 4)
_COLUMNS = 8


class LoadWatch:
    """Measures processor time from its creation on: of the whole machine, and of this process."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._machine = _busy_s()
        self._own = time.process_time()

    def other_cores(self) -> float | None:
        """The average number of cores that others used since then; None if the system does not report it.

        Others are programs, interrupts, and the host of a virtual machine.
        """
        elapsed = time.monotonic() - self._start
        now = _busy_s()
        if self._machine is None or now is None or elapsed <= 0:
            return None
        return max(0.0, (now - self._machine - (time.process_time() - self._own)) / elapsed)


def _busy_s() -> float | None:
    """Processor seconds that all cores used since the machine was started."""
    try:
        label, *counts = _STAT.read_text(encoding="ascii", errors="replace").partition("\n")[0].split()
        ticks = [int(count) for count in counts[:_COLUMNS]]
        if label != "cpu" or len(ticks) != _COLUMNS:
            return None
        return sum(count for column, count in enumerate(ticks) if column not in _IDLE) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
