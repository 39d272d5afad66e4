"""A CPU that adds up float16 in float16, as Arm's do, is given float32 keys, values and weights to multiply."""

import numpy as np
import pytest

from visionward import Engine
from visionward.runtime import engine as engine_module
from visionward.runtime.ggml import graph

TOKENS = list(range(1, 41))


@pytest.mark.parametrize("in_float32", [True, False])
def test_kv_cache_is_float32_where_float16_is_summed_in_float16(pair_of, engine_of, monkeypatch, in_float32) -> None:
    """On float32 files the float16 KV cache alone separates the default mode from the exact one."""
    for module in (engine_module, graph):
        monkeypatch.setattr(module, "sums_float16_in_float32", lambda: in_float32)
    pair = pair_of("plain", "f32")
    engine = Engine(pair.text, pair.mmproj, n_ctx=256, gpu_layers=0)
    try:
        found = engine.logits(TOKENS).logits
    finally:
        engine.close()
    wanted = engine_of("plain", "f32", exact=True).logits(TOKENS).logits
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert error > 1e-5 if in_float32 else error < 1e-6
