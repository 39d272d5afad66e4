"""Peak memory of this process while something ran."""

import contextlib
import ctypes
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# Long compared with one sample (0.05 ms), short compared with the stages of a classification.
SAMPLE_S = 0.02

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class PeakMemory:
    """Peaks of resident memory in bytes; None if the system does not report them.

    Attributes:
        total: all resident memory, as the system counts it.
        anonymous: memory that the process allocated: caches and working memory.
        file: mapped files: weights and libraries, which the system can drop and read again. This and ``anonymous`` are
            sampled, and need not peak at the same time.
    """

    total: int | None
    anonymous: int | None
    file: int | None


class MemoryWatch:
    """Watches this process's resident memory inside a ``with`` block.

    On Linux the peak is that of the block: the system's own peak is reset when the block begins. Elsewhere it is the
    peak since the process started.

    GPU memory is not included.
    """

    def __init__(self) -> None:
        self._largest: dict[str, int] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="visionward-memory", daemon=True)

    def __enter__(self) -> "MemoryWatch":
        if sys.platform == "linux":
            # Some containers forbid it. Then the peak is that since the process started.
            with contextlib.suppress(OSError):
                _RESET.write_text(_RESET_PEAK, encoding="ascii")
            try:
                self._thread.start()
            except BaseException:
                # An interrupt may arrive when the thread is running already.
                self._ended = True
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A plain flag without waiting: an interrupt inside an Event could leave the thread running forever.
        self._ended = True

    def _watch(self) -> None:
        while not self._ended:
            self._sample()
            time.sleep(SAMPLE_S)

    def _sample(self) -> None:
        for name, size in _status().items():
            self._largest[name] = max(size, self._largest.get(name, 0))

    @property
    def peak(self) -> PeakMemory:
        """The peaks so far."""
        if sys.platform == "linux":
            self._sample()
        # A sample may exceed the system's peak, which may be missing or lag behind.
        marks = [self._largest[name] for name in ("VmHWM", "VmRSS") if name in self._largest]
        total = max(marks, default=None)
        return PeakMemory(
            total=_peak_since_start() if total is None else total,
            anonymous=self._largest.get("RssAnon"),
            file=self._largest.get("RssFile"),
        )


def peak_bytes() -> int | None:
    """The most resident memory of this process since it began; None where the system does not tell."""
    # Linux's ru_maxrss begins with what the parent had when it forked.
    mark = _status().get("VmHWM")
    return _peak_since_start() if mark is None else mark


def anonymous_bytes() -> int | None:
    """Memory that this process holds now, mapped files aside; None if the system does not report it."""
    return _status().get("RssAnon")


def _status() -> dict[str, int]:
    """The sizes in ``/proc/self/status`` in bytes; empty if it cannot be read."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(Vm\w+|Rss\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _peak_since_start() -> int | None:
    if sys.platform == "win32":
        return _windows_peak()
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _ProcessMemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of psapi.h."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("QuotaPeakPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPagedPoolUsage", ctypes.c_size_t),
        ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t),
        ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    )


def _windows_peak() -> int | None:
    kernel = getattr(ctypes, "WinDLL", ctypes.CDLL)("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    counters = _ProcessMemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return None
    return int(counters.PeakWorkingSetSize)
