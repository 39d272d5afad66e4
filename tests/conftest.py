"""Fixtures for all tests; what several need is in tests/support."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from hypothesis import settings
from image_variants import CHECKPOINTS
from onnx_towers import copy_tower, limit_memory
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.runtime.ggml import device_list

PairMaker = Callable[..., ConvertedPair]
TowerMaker = Callable[..., Path]
EngineMaker = Callable[..., Engine]

# How long an example takes is the machine's affair.
settings.register_profile("visionward", deadline=None)
settings.load_profile("visionward")

# A shell ignores interrupts for what it starts in the background, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    """Headless Chromium; without it the tests that need one are skipped."""
    program = chromium.find()
    if program is None:
        pytest.skip("Chromium is not installed")
    with chromium.Chromium(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="session")
def tiny_checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, shared: do not change it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny_pair(tiny_checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedPair:
    """The same, converted in f32."""
    return convert_checkpoint(tiny_checkpoint_dir, tmp_path_factory.mktemp("pair"), text_type="f32", mmproj_type="f32")


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> PairMaker:
    """``pair_of(name, type)``: the GGUF pair of a checkpoint of tests/support/image_variants.py."""
    checkpoints: dict[str, Path] = {}
    pairs: dict[tuple[str, str], ConvertedPair] = {}

    def make(name: str = "plain", kind: str = "f32") -> ConvertedPair:
        if name not in checkpoints:
            checkpoints[name] = write_tiny_checkpoint(tmp_path_factory.mktemp(name) / name, **CHECKPOINTS[name])
        if (name, kind) not in pairs:
            folder = tmp_path_factory.mktemp(f"{name}-{kind}")
            pairs[name, kind] = convert_checkpoint(checkpoints[name], folder, text_type=kind, mmproj_type=kind)
        return pairs[name, kind]

    return make


@pytest.fixture(scope="session")
def tower_of(pair_of: PairMaker, tmp_path_factory: pytest.TempPathFactory) -> TowerMaker:
    """``tower_of(name, type)``: the ONNX tower of a checkpoint, not beside its pair, where others would find it."""
    towers: dict[tuple[str, str], Path] = {}

    def make(name: str = "plain", weight_type: str = "f32") -> Path:
        if (name, weight_type) not in towers:
            target = tmp_path_factory.mktemp(f"{name}-{weight_type}") / f"vision-{name}-{weight_type}.onnx"
            towers[name, weight_type] = export_tower(pair_of(name, "f32").mmproj, target, weight_type=weight_type)
        return towers[name, weight_type]

    return make


@pytest.fixture
def pair(pair_of: PairMaker, tmp_path: Path) -> ConvertedPair:
    """A pair in a folder of its own."""
    made = pair_of("plain", "f32")
    return ConvertedPair(Path(shutil.copy(made.text, tmp_path)), Path(shutil.copy(made.mmproj, tmp_path)))


@pytest.fixture
def tower(pair: ConvertedPair, tower_of: TowerMaker) -> Path:
    """An ONNX tower beside the pair."""
    return copy_tower(tower_of("plain", "f32"), pair.mmproj.parent / "vision-plain-f32.onnx")


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """No container's limit, whatever the tests run in."""
    limit_memory(monkeypatch, None)


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, whatever the tests run on."""
    monkeypatch.setattr(device_list, "list_devices", lambda: [device_list.cpu_device()])


@pytest.fixture(scope="session")
def engine_of(pair_of: PairMaker) -> Iterator[EngineMaker]:
    """``engine_of(name, type, **options)``: a loaded pair, shared by the tests that want the same."""
    engines: dict[tuple[object, ...], Engine] = {}

    def load(name: str = "plain", kind: str = "f32", **options: int | bool) -> Engine:
        if options.get("exact"):
            # NVIDIA GPUs multiply float32 as TF32.
            options = {"gpu_layers": 0, **options}
        key = (name, kind, *sorted(options.items()))
        if key not in engines:
            pair = pair_of(name, kind)
            engines[key] = Engine(pair.text, pair.mmproj, **{"n_ctx": 256, **options})
        return engines[key]

    yield load
    for engine in engines.values():
        engine.close()
