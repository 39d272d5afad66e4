"""Processor and memory as the operating system reports them, without the native library."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The features that decide which kernels a library can use, in the spelling of /proc/cpuinfo.
FEATURES = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_SYSCTL = "/usr/sbin/sysctl"


@dataclass(frozen=True)
class Processor:
    """The processor.

    Attributes:
        model: its name.
        architecture: ``x86_64``, ``arm64`` and so on.
        features: those of ``FEATURES`` that it has; None if the system does not report them.
        logical_cores: hardware threads.
        usable_cores: hardware threads that this process may run on.
    """

    model: str
    architecture: str
    features: tuple[str, ...] | None
    logical_cores: int
    usable_cores: int

    @property
    def identity(self) -> str:
        """A text that differs between processors that may need different kernels."""
        return "\0".join((self.model, self.architecture, *(self.features or ())))


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; None if the system does not report it.

    Attributes:
        total: installed.
        available: what programs can still allocate.
        limit: the limit of this container, if it has one.
    """

    total: int | None
    available: int | None
    limit: int | None


def read_processor() -> Processor:
    """The processor of this machine."""
    model, features = _read_cpuinfo() if sys.platform == "linux" else _ask_system()
    return Processor(
        model=model or platform.processor() or "unknown",
        architecture=platform.machine() or "unknown",
        features=features,
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
    )


def usable_cores() -> int:
    """Hardware threads that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        return os.cpu_count() or 1


def physical_cores() -> int:
    """Physical cores that this process may run on. The hardware threads of a core share its vector units."""
    try:
        allowed = os.sched_getaffinity(0)  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            return len(allowed)
    return len(siblings)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _known_features(found: set[str]) -> tuple[str, ...]:
    return tuple(feature for feature in FEATURES if feature in found)


def _read_cpuinfo() -> tuple[str, tuple[str, ...] | None]:
    text = _text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    name = model[1].strip() if model else _arm_cores(text)
    return name, _known_features(set(flags[1].split())) if flags else None


def _arm_cores(cpuinfo: str) -> str:
    """The kinds of cores by their numbers. On 64-bit Arm /proc/cpuinfo has no name of the processor."""
    codes = re.findall(r"^CPU implementer\s*:\s*(\w+)$.*?^CPU part\s*:\s*(\w+)$", cpuinfo, re.MULTILINE | re.DOTALL)
    return " and ".join(f"implementer {maker} part {part}" for maker, part in dict.fromkeys(codes))


def _ask_system() -> tuple[str, tuple[str, ...] | None]:
    if sys.platform == "darwin":
        arm = {
            "hw.optional.AdvSIMD": "asimd",
            "hw.optional.arm.FEAT_FP16": "asimdhp",
            "hw.optional.arm.FEAT_DotProd": "asimddp",
            "hw.optional.arm.FEAT_I8MM": "i8mm",
            "hw.optional.arm.FEAT_BF16": "bf16",
            "hw.optional.arm.FEAT_SME": "sme",
        }
        intel = {
            "SSE4.2": "sse4_2",
            "AVX1.0": "avx",
            "AVX2": "avx2",
            "F16C": "f16c",
            "FMA": "fma",
            "AVX512F": "avx512f",
        }
        found = {name for key, name in arm.items() if _sysctl(key) == "1"}
        listed = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".split()
        found |= {name for key, name in intel.items() if key in listed}
        return _sysctl("machdep.cpu.brand_string"), _known_features(found)
    return os.environ.get("PROCESSOR_IDENTIFIER", ""), None


def _limit_files() -> Iterator[str]:
    """The files that may limit this process's memory: those of its control group and of all above it (cgroups(7))."""
    own = {"memory.max": "", "memory.limit_in_bytes": ""}
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            own["memory.max"] = path.strip("/")
        elif "memory" in controllers.split(","):
            own["memory.limit_in_bytes"] = path.strip("/")
    for name, path in own.items():
        root = "/sys/fs/cgroup" if name == "memory.max" else "/sys/fs/cgroup/memory"
        parts = path.split("/") if path else []
        for count in range(len(parts) + 1):
            yield "/".join((root, *parts[:count], name))


def _sysctl(key: str) -> str:
    try:
        answer = subprocess.run([_SYSCTL, "-n", key], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def read_memory() -> Memory:
    """The memory of this machine."""
    if sys.platform == "linux":
        amounts = {
            name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo"), re.M)
        }
        total = amounts.get("MemTotal")
        known = [int(limit) for limit in map(_text, _limit_files()) if limit.strip().isdecimal()]
        # Without a limit, cgroup v1 reports a number larger than any memory.
        limit = min((value for value in known if total is None or value < total), default=None)
        return Memory(total, amounts.get("MemAvailable"), limit)
    if sys.platform == "darwin":
        size = _sysctl("hw.memsize")
        return Memory(int(size) if size.isdecimal() else None, None, None)
    return Memory(None, None, None)
