"""Packed kernels are used only where the probe saw that they work."""

from types import SimpleNamespace

import pytest

from visionward import Engine
from visionward.errors import NativeLibraryError
from visionward.runtime import engine as engine_module
from visionward.runtime import kernel_choice
from visionward.runtime.ggml import packed_kernels
from visionward.runtime.ggml.kernel_probe import KernelResult, Status


def found(monkeypatch: pytest.MonkeyPatch, **kernels: Status) -> None:
    results = tuple(KernelResult(name, status, "SIGILL", ()) for name, status in kernels.items())
    monkeypatch.setattr(packed_kernels, "probe_kernels", lambda *_args, **_options: results)


@pytest.mark.parametrize("status", ["crashes", "hangs", "wrong", "untested"])
def test_a_broken_kind_is_refused_by_name(monkeypatch, status: Status):
    found(monkeypatch, plain="works", CPU_REPACK="works", AMX=status)
    with pytest.raises(NativeLibraryError, match=f"AMX kernels .* cannot be used \\({status}: SIGILL\\)"):
        packed_kernels.check_packed_kernels(1)


def test_what_works_or_is_not_used_passes(monkeypatch):
    found(monkeypatch, plain="works", CPU_REPACK="works", AMX="unused")
    packed_kernels.check_packed_kernels(1)


@pytest.mark.parametrize(
    ("kernels", "amx", "packed"),
    [("plain", True, False), ("packed", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_llama_is_told(pair_of, monkeypatch, kernels: str, amx: bool, packed: bool):
    """With kernels that the library does not have here, so that none can crash: only the switch is looked at."""
    pair = pair_of("plain", "f16")
    found(monkeypatch, plain="works")
    monkeypatch.setattr(kernel_choice, "MIN_TEXT_BYTES", 0)
    monkeypatch.setattr(kernel_choice, "types_for_amx", lambda _threads: {"Q8_0", "F16"} if amx else set())
    told = []

    def model(*_args, **options):
        told.append(options["packed"])
        raise NativeLibraryError("enough")

    monkeypatch.setattr(engine_module, "TextModel", model)
    with pytest.raises(NativeLibraryError, match="enough"):
        Engine(pair.text, pair.mmproj, kernels=kernels, device="CPU")
    assert told == [packed]


def test_packed_is_refused_before_anything_is_loaded(pair_of, monkeypatch):
    pair = pair_of("plain", "f16")
    found(monkeypatch, AMX="crashes")
    monkeypatch.setattr(engine_module, "TextModel", SimpleNamespace)
    with pytest.raises(NativeLibraryError, match="cannot be used"):
        Engine(pair.text, pair.mmproj, kernels="packed")


def test_an_unknown_name(pair_of):
    pair = pair_of("plain", "f16")
    with pytest.raises(ValueError, match="unknown kernels 'fast'; choose auto, plain or packed"):
        Engine(pair.text, pair.mmproj, kernels="fast")
