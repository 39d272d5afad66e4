"""Peaks of memory and the load of other programs, against what the system says."""

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from visionward.machine import machine_load, process_memory
from visionward.machine.machine_load import LoadWatch
from visionward.machine.process_memory import MemoryWatch

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def allocate(size):
    """Memory that is resident, and given back to the system as soon as it is closed."""
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, mmap.PAGESIZE):
        region[offset] = 1
    return region


@linux
def test_the_peak_is_the_systems_own():
    before = status("RssAnon")
    with MemoryWatch() as watch:
        region = allocate(200 * MIB)
        time.sleep(0.1)
        held = status("RssAnon")
        region.close()
        peak = watch.peak
        assert peak.total == pytest.approx(status("VmHWM"), rel=0.02)
    assert peak.anonymous == pytest.approx(held, rel=0.02)
    assert peak.anonymous >= before + 190 * MIB
    assert status("RssAnon") < before + 100 * MIB


@linux
def test_mapped_files_count_apart(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(120 * MIB))
    with MemoryWatch() as watch:
        before = status("RssFile")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as weights:
            assert np.frombuffer(weights, np.uint8)[:: mmap.PAGESIZE].sum() == 0
            time.sleep(0.1)
    assert watch.peak.file >= before + 110 * MIB
    assert watch.peak.anonymous < watch.peak.total


@linux
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the mark cannot be set back here")
def test_what_ran_before_does_not_count():
    allocate(300 * MIB).close()
    high = status("VmHWM")
    with MemoryWatch() as watch:
        pass
    assert watch.peak.total < high - 200 * MIB


@linux
def test_a_mark_that_cannot_be_set_back(monkeypatch, tmp_path):
    monkeypatch.setattr(process_memory, "_RESET", tmp_path / "no" / "such")
    with MemoryWatch() as watch:
        pass
    assert watch.peak.total == pytest.approx(status("VmHWM"), rel=0.02)


@linux
def test_without_the_status_file(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "none")
    with MemoryWatch() as watch:
        pass
    assert watch.peak.total == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert (watch.peak.anonymous, watch.peak.file) == (None, None)


@pytest.mark.parametrize(("platform", "factor"), [("darwin", 1), ("freebsd14", 1024)])
def test_other_systems(monkeypatch, platform, factor):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", platform)
    with MemoryWatch() as watch:
        pass
    assert watch.peak == process_memory.PeakMemory(5000 * factor, None, None)


def test_a_system_that_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(sys, "platform", "unknown")
    assert MemoryWatch().peak == process_memory.PeakMemory(None, None, None)


@pytest.mark.parametrize("works", [True, False])
def test_windows(monkeypatch, works):
    class Function:
        def __init__(self, function):
            self.function = function

        def __call__(self, *arguments):
            return self.function(*arguments)

    def information(process, counters, size):
        assert process == -1
        # As on 64-bit Windows: two 32-bit counters, then eight of pointer size.
        assert size == 8 + 8 * ctypes.sizeof(ctypes.c_size_t)
        ctypes.cast(counters, ctypes.POINTER(ctypes.c_size_t))[8 // ctypes.sizeof(ctypes.c_size_t)] = 123456789
        return works

    kernel = SimpleNamespace(GetCurrentProcess=Function(lambda: -1), K32GetProcessMemoryInfo=Function(information))
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: {"kernel32": kernel}[name], raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert MemoryWatch().peak.total == (123456789 if works else None)


class Counters:
    """A clock and a /proc/stat in which every core's second is a hundred ticks."""

    def __init__(self, path, monkeypatch):
        self.path, self.seconds, self.own = path, 0.0, 0.0
        clock = SimpleNamespace(monotonic=lambda: self.seconds, process_time=lambda: self.own)
        monkeypatch.setattr(machine_load, "time", clock)
        monkeypatch.setattr(machine_load, "_STAT", path)
        monkeypatch.setattr(machine_load.os, "sysconf", lambda _: 100, raising=False)

    def write(self, text):
        self.path.write_text(text)


@pytest.fixture
def counters(tmp_path, monkeypatch):
    return Counters(tmp_path / "stat", monkeypatch)


def test_other_programs(counters):
    counters.write("cpu  1000 0 500 9000 700 0 0 0 50 0\ncpu0 1 2 3\n")
    watch = LoadWatch()
    # In 10 seconds: 25 core-seconds busy, 20 of them ours; idle and waiting do not count, guests are in user already.
    counters.seconds, counters.own = 10.0, 20.0
    counters.write("cpu  2500 100 1300 9500 800 20 30 50 60 0\ncpu0 1 2 3\n")
    assert watch.other_cores() == pytest.approx(0.5)
    counters.own = 40.0
    assert watch.other_cores() == 0


@pytest.mark.parametrize("text", ["", "cpu 1 2\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"])
def test_no_counters(counters, text):
    counters.write(text)
    watch = LoadWatch()
    counters.seconds = 1.0
    assert watch.other_cores() is None


def test_no_counters_at_all(counters):
    watch = LoadWatch()
    counters.seconds = 1.0
    assert watch.other_cores() is None


@linux
def test_this_machines_load():
    watch = LoadWatch()
    time.sleep(0.2)
    others = watch.other_cores()
    assert others is not None
    assert 0 <= others <= (os.cpu_count() or 1) + 0.5
