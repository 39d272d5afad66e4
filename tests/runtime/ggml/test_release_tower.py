"""The tower's mapped weights are given back after every image, and read again for the next."""

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine
from visionward.convert import convert_checkpoint
from visionward.runtime.ggml.mmproj_weights import MmprojWeights

PICTURE = np.random.default_rng(5).integers(0, 255, (90, 130, 3), np.uint8)


def mapped_bytes() -> int:
    """Pages of mapped files that are in memory."""
    return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("wide")
    checkpoint = write_tiny_checkpoint(folder / "wide", vision_width=512, vision_heads=8)
    pair = convert_checkpoint(checkpoint, folder, text_type="f32", mmproj_type="f32")
    with closing(Engine(pair.text, pair.mmproj, n_ctx=64, threads=1, gpu_layers=0, vision_backend="ggml")) as engine:
        yield engine


def tower_bytes(weights: MmprojWeights) -> int:
    return sum(tensor.nbytes for name, tensor in weights.file.tensors.items() if not name.startswith("cross."))


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is told what is in memory")
def test_the_pages_go(engine: Engine) -> None:
    weights = engine.weights
    tower = tower_bytes(weights)
    assert tower > 50e6
    for _ in range(2):
        weights._data[:: 2**12].sum()
        touched = mapped_bytes()
        weights.release_tower()
        assert touched - mapped_bytes() > 0.95 * tower


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is told what is in memory")
def test_encoding_an_image_leaves_them_gone(engine: Engine) -> None:
    engine.encode_image(PICTURE)
    left = mapped_bytes()
    engine.weights._data[:: 2**12].sum()
    assert mapped_bytes() - left > 0.9 * tower_bytes(engine.weights)


def test_the_features_stay(engine: Engine, monkeypatch) -> None:
    after = [engine.encode_image(PICTURE) for _ in range(2)]
    engine.weights.release_tower()
    after.append(engine.encode_image(PICTURE))
    monkeypatch.setattr(MmprojWeights, "release_tower", lambda _: None)
    never = engine.encode_image(PICTURE)
    assert np.abs(never).max() > 0
    assert all(np.array_equal(features, never) for features in after)


def test_slices_are_those_of_the_whole(engine: Engine) -> None:
    for name in ("v.tile_position_embd.weight", "v.pre_tile_embd.weight"):
        whole = engine.weights.array(name)
        assert all(np.array_equal(engine.weights.slice(name, i), whole[i]) for i in range(len(whole)))
