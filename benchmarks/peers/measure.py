"""What every contestant does alike: its options, its peak memory, and one JSON object on standard output."""

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import cpu

_STATUS = Path("/proc/self/status")
_PARTS = {"VmHWM": "peak_bytes", "RssAnon": "peak_anonymous_bytes", "RssFile": "peak_file_bytes"}
INTERVAL = 0.2


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every contestant has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--prompt", type=Path, required=True, help="written by benchmarks.peers.inputs")
    made.add_argument("--images", type=int, nargs="+", default=[1, 4], help="their numbers of tiles")
    made.add_argument("--limit", choices=cpu.LIMITS, default="default", help="what the processor may be used for")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--runs", type=int, default=1, help="measured runs, after the one that warms up")
    made.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    return made


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a job took, and its result."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def versions(*packages: str) -> dict[str, str]:
    """The versions of what was measured."""
    return {package: importlib.metadata.version(package) for package in packages}


class Contest:
    """One contestant's run: keeps standard output for the result alone, and watches memory.

    Example::

        with Contest(options, "visionward") as contest:
            ...
            contest.finish(load_s=..., images=...)
    """

    def __init__(self, options: argparse.Namespace, name: str) -> None:
        cpu.apply(options.limit, options.threads)
        self._record: dict[str, Any] = {"contestant": name, "limit": options.limit, "threads": options.threads}
        self._peaks = dict.fromkeys(_PARTS, 0)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Contest":
        sys.stdout.flush()
        # Libraries print to the file descriptor: that goes to standard error from here on.
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        os.dup2(self._out, 1)
        os.close(self._out)

    def finish(self, **results: Any) -> None:
        """Print the record."""
        self._look()
        memory = {name: self._peaks[part] for part, name in _PARTS.items()}
        line = json.dumps({**self._record, **results, "memory": memory}) + "\n"
        with os.fdopen(os.dup(self._out), "w", encoding="utf-8") as out:
            out.write(line)

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        # VmHWM is the peak of the whole; of its two parts the system keeps no peaks.
        for part, kib in re.findall(r"^(\w+):\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE):
            if part in self._peaks:
                self._peaks[part] = max(self._peaks[part], int(kib) * 1024)


@contextlib.contextmanager
def native_output() -> Iterator[Callable[[], str]]:
    """Catch what libraries print to standard output inside a ``with`` block; afterwards the result says it."""
    text = ""
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        _flush()
        os.dup2(file.fileno(), 1)
        try:
            yield lambda: text
        finally:
            _flush()
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")


def _flush() -> None:
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)


def median(values: list[float]) -> float:
    """The median, rounded to what can be measured."""
    return round(statistics.median(values), 4)
