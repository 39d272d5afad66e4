"""The processor's name and features from /proc/cpuinfo, in the layouts that Linux writes."""

import pytest

from visionward.machine import processor

X86 = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni\n\n"
ARM = (
    "processor\t: {number}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd fphp asimdhp asimddp{more}\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
)


def arm(*parts: str, more: str = "") -> str:
    return "".join(ARM.format(number=number, part=part, more=more) for number, part in enumerate(parts))


@pytest.mark.parametrize(
    ("cpuinfo", "model", "features"),
    [
        (X86 * 2, "AMD EPYC", ("avx2", "avx512_vnni")),
        (arm("0xd0b", "0xd0b"), "implementer 0x41 part 0xd0b", ("asimd", "asimdhp", "asimddp")),
        (arm("0xd05", "0xd0b", "0xd0b"), "implementer 0x41 part 0xd05 and implementer 0x41 part 0xd0b", None),
        (arm("0xd40", more=" sve i8mm bf16"), "implementer 0x41 part 0xd40", None),
        (arm("0xd0b") + "Revision\t: c04170\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5", None),
    ],
    ids=["x86", "arm", "two kinds of cores", "with SVE", "Raspberry Pi"],
)
def test_name_and_features(monkeypatch, cpuinfo, model, features) -> None:
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor, "_text", {"/proc/cpuinfo": cpuinfo}.__getitem__)
    found = processor.read_processor()
    assert found.model == model
    if features is not None:
        assert found.features == features


def test_arm_processors_differ_in_what_is_cached_for_them(monkeypatch) -> None:
    """Without a name, cores of two makers with the same features would share packed weights and tested kernels."""
    identities = set()
    for part in ("0xd0b", "0xd0c"):
        monkeypatch.setattr(processor.sys, "platform", "linux")
        monkeypatch.setattr(processor, "_text", lambda _, part=part: arm(part))
        identities.add(processor.read_processor().identity)
    assert len(identities) == 2


MEMINFO = "MemTotal:       25165824 kB\nMemAvailable:   20000000 kB\n"
NONE_V1 = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("", {}, None),
        # A container with a namespace of its own.
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": "1000\n"}, 1000),
        # A service of systemd, whose slice has the smaller limit.
        (
            "0::/system.slice/guard.service\n",
            {"system.slice/guard.service/memory.max": "3000\n", "system.slice/memory.max": "2000\n"},
            2000,
        ),
        ("0::/other\n", {"system.slice/memory.max": "2000\n"}, None),
        # Version 1, as for a job of Slurm, with a colon in the path.
        (
            "5:cpu:/\n4:cpu,memory:/job:1\n0::/\n",
            {"memory/job:1/memory.limit_in_bytes": "4000\n", "memory/memory.limit_in_bytes": NONE_V1},
            4000,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": NONE_V1}, None),
    ],
)
def test_the_smallest_limit_of_the_control_groups(monkeypatch, groups, files, limit) -> None:
    texts = {"/proc/meminfo": MEMINFO, "/proc/self/cgroup": groups}
    texts |= {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor, "_text", lambda path: texts.get(path, ""))
    assert processor.read_memory() == processor.Memory(25165824 * 1024, 20000000 * 1024, limit)
