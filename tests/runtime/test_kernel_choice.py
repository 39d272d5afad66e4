"""When ``kernels="auto"`` packs the text file's weights."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import Memory
from visionward.runtime import kernel_choice
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml import packed_kernels
from visionward.runtime.ggml.kernel_probe import KernelResult, WeightResult, amx_types
from visionward.runtime.ggml.kernel_product import WEIGHT_TYPES

GIB = 2**30
PLENTY = Memory(None, 64 * GIB, None)
ALL_TYPES = frozenset(dtype.name for dtype in WEIGHT_TYPES)


@pytest.fixture
def choose(pair_of, monkeypatch):
    """What is chosen for a text file of some type and size, on a processor with AMX kernels for some types."""

    def choice(text_bytes=5 * GIB, kind="q4_k_m", memory=PLENTY, amx=ALL_TYPES, gpu=False, tower_bytes=GIB, **options):
        pair = pair_of("plain", kind)
        real = PairFiles.open(pair.text, pair.mmproj)
        path = SimpleNamespace(stat=lambda: SimpleNamespace(st_size=text_bytes), is_file=lambda: True)
        text = SimpleNamespace(path=path, tensors=real.text.tensors)
        files = SimpleNamespace(text=text, mmproj=real.mmproj, config=real.config)
        monkeypatch.setattr(kernel_choice, "read_memory", lambda: memory)
        monkeypatch.setattr(kernel_choice, "types_for_amx", lambda _threads: frozenset(amx))
        return kernel_choice.choose_kernels(
            EngineOptions(**options), files, threads=1, gpu=gpu, tower_bytes=tower_bytes
        )

    return choice


@pytest.mark.parametrize(
    ("kind", "amx", "expected"),
    [
        ("q4_k_m", {"Q4_K", "Q6_K"}, "packed"),
        ("q4_k_m", {"Q4_K"}, "plain"),
        ("q4_k_m", {"Q6_K"}, "plain"),
        ("q4_k_m", set(), "plain"),
        ("q8_0", {"Q8_0"}, "packed"),
        # Packed by ggml, but without AMX instructions, and not tried by the probe.
        ("f16", ALL_TYPES, "plain"),
        ("f32", ALL_TYPES, "plain"),
    ],
)
def test_auto_is_packed_if_amx_is_faster_for_every_type_of_the_file(choose, kind, amx, expected):
    assert choose(kind=kind, amx=amx) == expected


def test_what_was_asked_for_is_used(choose):
    assert choose(kernels="plain") == "plain"
    assert choose(kernels="packed", amx=(), text_bytes=1) == "packed"


def test_auto_is_plain_where_packing_gains_nothing(choose):
    assert choose(text_bytes=kernel_choice.MIN_TEXT_BYTES - 1) == "plain"
    assert choose(text_bytes=kernel_choice.MIN_TEXT_BYTES) == "packed"
    assert choose(gpu=True) == "plain"
    assert choose(exact=True) == "plain"


def test_available_memory_has_to_hold_the_copy(choose):
    """The copy of 5 GiB takes 5.6 GiB, and the tiny model with its tower 0.5 to 1. The mapped file can be dropped."""
    for available, expected in ((7 * GIB, "packed"), (6 * GIB, "plain"), (None, "plain")):
        assert choose(memory=Memory(64 * GIB, available, None)) == expected


@pytest.mark.parametrize("name", ["limit", "memory_limit"])
def test_a_limit_has_to_hold_everything(choose, name):
    """File and copy take 10.6 GiB, the tower and its copy 2, and the rest 0.5 to 1."""
    for limit, expected in ((13.8 * GIB, "packed"), (13 * GIB, "plain")):
        if name == "memory_limit":
            assert choose(memory_limit=int(limit)) == expected
        else:
            assert choose(memory=Memory(64 * GIB, 64 * GIB, int(limit))) == expected
    assert choose(memory=Memory(64 * GIB, 64 * GIB, 12 * GIB), memory_limit=64 * GIB) == "plain"
    assert choose(memory=Memory(64 * GIB, 64 * GIB, 64 * GIB), memory_limit=12 * GIB) == "plain"


def result(kernel, status="works", **speeds):
    weights = tuple(WeightResult(name, None if speed is None else 0.005, speed) for name, speed in speeds.items())
    return KernelResult(kernel, status, "", weights)


PLAIN = result("plain", Q4_0=40.0, Q8_0=43.0, Q4_K=139.0)
REPACK = result("CPU_REPACK", Q4_0=100.0, Q8_0=None, Q4_K=90.0)


@pytest.mark.parametrize(
    ("results", "types"),
    [
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], {"Q4_0", "Q8_0", "Q4_K"}),
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=None, Q4_K=196.0)], {"Q4_0", "Q4_K"}),
        ([PLAIN, REPACK, result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=138.0)], {"Q4_0", "Q8_0"}),
        ([PLAIN, REPACK, result("AMX", "unused", Q4_0=None, Q8_0=None, Q4_K=None)], set()),
        ([PLAIN, REPACK, result("AMX", "crashes")], set()),
        ([PLAIN, REPACK, result("AMX", "wrong", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], set()),
        ([PLAIN, result("CPU_REPACK", "wrong"), result("AMX", Q4_0=190.0, Q8_0=147.0, Q4_K=196.0)], set()),
        ([PLAIN, REPACK], set()),
        ([], set()),
    ],
)
def test_amx_is_for_types_for_which_it_is_right_and_faster(results, types):
    assert amx_types(results) == types


@pytest.mark.parametrize(("kernels", "types"), [(["plain", "CPU_REPACK"], set()), (["plain", "AMX"], {"Q4_0", "Q4_K"})])
def test_nothing_is_tried_without_amx(monkeypatch, kernels, types):
    tried = []

    def probe(names, files: list[Path], _processor, *, threads, fresh):
        tried.append((names, threads))
        assert files
        assert not fresh
        return [PLAIN, result("AMX", Q4_0=190.0, Q8_0=1.0, Q4_K=196.0)]

    monkeypatch.setattr(packed_kernels, "buffer_types", lambda: dict.fromkeys(kernels, 1))
    monkeypatch.setattr(packed_kernels, "probe_kernels", probe)
    assert packed_kernels.types_for_amx(3) == types
    assert tried == ([(("plain", "AMX"), 3)] if types else [])
