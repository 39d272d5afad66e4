"""When ``kernels="auto"`` packs the text file's weights."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import Memory
from visionward.runtime import kernel_choice
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml import packed_kernels
from visionward.runtime.ggml.kernel_probe import KernelResult, WeightResult, amx_is_best

GIB = 2**30


@pytest.fixture
def choose(pair_of, monkeypatch):
    """What is chosen for a text file of a given size, on a processor whose AMX kernels are faster."""
    pair = pair_of("plain", "f16")
    real = PairFiles.open(pair.text, pair.mmproj)

    def choice(text_bytes=5 * GIB, memory=None, amx=True, gpu=False, tower_bytes=GIB, **options):
        size = SimpleNamespace(st_size=text_bytes)
        path = SimpleNamespace(stat=lambda: size, is_file=lambda: True)
        files = SimpleNamespace(text=SimpleNamespace(path=path), mmproj=real.mmproj, config=real.config)
        monkeypatch.setattr(kernel_choice, "read_memory", lambda: memory or Memory(None, None, None))
        monkeypatch.setattr(kernel_choice, "amx_is_faster", lambda _threads: amx)
        return kernel_choice.choose_kernels(
            EngineOptions(**options), files, threads=1, gpu=gpu, tower_bytes=tower_bytes
        )

    return choice


def test_auto_is_packed_on_a_processor_with_amx(choose):
    assert choose() == "packed"
    assert choose(amx=False) == "plain"


def test_what_was_asked_for_is_used(choose):
    assert choose(kernels="plain") == "plain"
    assert choose(kernels="packed", amx=False, text_bytes=1) == "packed"


def test_auto_is_plain_where_packing_gains_nothing(choose):
    assert choose(text_bytes=kernel_choice.MIN_TEXT_BYTES - 1) == "plain"
    assert choose(text_bytes=kernel_choice.MIN_TEXT_BYTES) == "packed"
    assert choose(gpu=True) == "plain"
    assert choose(exact=True) == "plain"


@pytest.mark.parametrize("name", ["total", "available", "limit", "memory_limit"])
def test_memory_has_to_hold_the_copy(choose, name):
    """Mapped file and copy take 10 GiB, the tower and its copy 2, and the rest of the tiny model 0.5 to 1."""

    def with_memory(gib: float) -> str:
        if name == "memory_limit":
            return choose(memory_limit=int(gib * GIB))
        return choose(memory=Memory(**{"total": None, "available": None, "limit": None, name: int(gib * GIB)}))

    assert with_memory(13) == "packed"
    # What is installed may be in use: only what is available counts.
    assert with_memory(12) == ("packed" if name == "total" else "plain")


def test_the_smallest_limit_counts(choose):
    assert choose(memory=Memory(64 * GIB, 64 * GIB, 12 * GIB)) == "plain"
    assert choose(memory=Memory(64 * GIB, 64 * GIB, 64 * GIB), memory_limit=12 * GIB) == "plain"
    assert choose(memory=Memory(64 * GIB, 64 * GIB, 64 * GIB), memory_limit=13 * GIB) == "packed"


def result(kernel, status="works", **speeds):
    weights = tuple(WeightResult(name, None if speed is None else 0.005, speed) for name, speed in speeds.items())
    return KernelResult(kernel, status, "", weights)


PLAIN = result("plain", Q4_0=40.0, Q8_0=43.0, Q4_K=139.0)
REPACK = result("CPU_REPACK", Q4_0=100.0, Q8_0=None, Q4_K=90.0)


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], True),
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=None, Q4_K=196.0)], True),
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=138.0)], False),
        ([PLAIN, REPACK, result("AMX", "unused", Q4_0=None, Q8_0=None, Q4_K=None)], False),
        ([PLAIN, REPACK, result("AMX", "crashes")], False),
        ([PLAIN, REPACK, result("AMX", "wrong", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], False),
        ([PLAIN, result("CPU_REPACK", "wrong"), result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], False),
        ([PLAIN, REPACK], False),
        ([], False),
    ],
)
def test_amx_is_best_if_it_works_and_is_faster(results, best):
    assert amx_is_best(results) is best


@pytest.mark.parametrize(("kernels", "faster"), [(["plain", "CPU_REPACK"], False), (["plain", "AMX"], True)])
def test_nothing_is_tried_without_amx(monkeypatch, kernels, faster):
    tried = []

    def probe(names, files: list[Path], _processor, *, threads):
        tried.append((names, threads))
        assert files
        return [PLAIN, result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)]

    monkeypatch.setattr(packed_kernels, "buffer_types", lambda: dict.fromkeys(kernels, 1))
    monkeypatch.setattr(packed_kernels, "probe_kernels", probe)
    assert packed_kernels.amx_is_faster(3) is faster
    assert tried == ([(("plain", "AMX"), 3)] if faster else [])
