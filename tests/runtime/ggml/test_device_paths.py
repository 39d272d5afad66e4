"""What a GPU build does differently, on the CPU: weights that are copied, and hidden states that live elsewhere."""

import ctypes
from typing import Any

import numpy as np
import pytest
from image_variants import CASES

from visionward import Engine
from visionward.runtime.decoder import text_model
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.device_list import cpu_device
from visionward.runtime.ggml.mmproj_weights import MmprojWeights
from visionward.runtime.images.preprocess import Tiles

CASE = next(case for case in CASES if case.text_before == 15)


@pytest.fixture
def wanted(engine_of) -> np.ndarray:
    return (
        engine_of(CASE.checkpoint, "f16", gpu_layers=0)
        .logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio))
        .logits
    )


@pytest.mark.parametrize("what", ["weights are uploaded", "hidden states are copied"])
def test_the_other_path_gives_the_same(pair_of, wanted, monkeypatch, what: str) -> None:
    used: list[object] = []
    if what == "weights are uploaded":
        upload, device = MmprojWeights._upload, Device(cpu_device(), 1)
        monkeypatch.setattr(MmprojWeights, "_map", lambda weights: used.append(upload(weights, device)))
    else:
        monkeypatch.setattr(Device, "holds", lambda *_: bool(used.append("copy")))
    pair = pair_of(CASE.checkpoint, "f16")
    engine = Engine(pair.text, pair.mmproj, n_ctx=256, gpu_layers=0)
    try:
        found = engine.logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio)).logits
    finally:
        engine.close()
    assert used
    np.testing.assert_array_equal(found, wanted)


def test_no_layer_on_the_gpu_means_no_gpu(pair_of, monkeypatch) -> None:
    """llama.cpp would compute long batches on a GPU that holds no layer: on CUDA off by 1.5e-3 (TF32)."""
    seen = []
    load = text_model.llama.llama_model_load_from_file

    def spy(path: bytes, params: Any) -> Any:
        seen.append(ctypes.c_void_p.from_address(params.devices).value)
        return load(path, params)

    monkeypatch.setattr(text_model.llama, "llama_model_load_from_file", spy)
    pair = pair_of(CASE.checkpoint, "f16")
    Engine(pair.text, pair.mmproj, n_ctx=256, gpu_layers=0).close()
    assert seen == [None]
