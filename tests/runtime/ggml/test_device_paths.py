"""What a GPU build does differently, on the CPU: weights that are copied, and hidden states that live elsewhere."""

import numpy as np
import pytest
from image_variants import CASES

from visionward import Engine
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.mmproj_weights import MmprojWeights
from visionward.runtime.images.preprocess import Tiles

CASE = next(case for case in CASES if case.text_before == 15)


@pytest.fixture
def wanted(engine_of) -> np.ndarray:
    return engine_of(CASE.checkpoint, "f16").logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio)).logits


@pytest.mark.parametrize("what", ["weights are uploaded", "hidden states are copied"])
def test_the_other_path_gives_the_same(pair_of, wanted, monkeypatch, what: str) -> None:
    used: list[object] = []
    if what == "weights are uploaded":
        upload, device = MmprojWeights._upload, Device.choose(gpu=False, threads=1)
        monkeypatch.setattr(MmprojWeights, "_map", lambda weights: used.append(upload(weights, device)))
    else:
        monkeypatch.setattr(Device, "holds", lambda *_: bool(used.append("copy")))
    pair = pair_of(CASE.checkpoint, "f16")
    engine = Engine(pair.text, pair.mmproj, n_ctx=256)
    try:
        found = engine.logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio)).logits
    finally:
        engine.close()
    assert used
    np.testing.assert_array_equal(found, wanted)
