"""A decode that leaves a layer out must never become a result."""

import numpy as np
import pytest
from image_variants import CASES

from visionward import Engine
from visionward.errors import CheckFailedError, ComputeError
from visionward.runtime.images.preprocess import Tiles

CASE = CASES[0]
TILES = Tiles(CASE.pixels(), CASE.aspect_ratio)


@pytest.fixture
def engine(pair_of):
    pair = pair_of("plain", "f32")
    engine = Engine(pair.text, pair.mmproj, n_ctx=128, threads=1)
    yield engine
    engine.close()


def test_a_layer_that_was_left_out_is_noticed(engine, monkeypatch) -> None:
    """As when an interrupt arrives while ctypes enters the callback: the answer is False, and nothing is said."""
    wanted = engine.logits(CASE.tokens(), TILES).logits
    hooks = engine.decoder._hooks
    apply, calls = hooks._apply, []

    def lose_the_second(name, tensor, memory) -> None:
        calls.append(name)
        if len(calls) != 2:
            apply(name, tensor, memory)

    monkeypatch.setattr(hooks, "_apply", lose_the_second)
    with pytest.raises(CheckFailedError, match="not applied to every row"):
        engine.logits(CASE.tokens(), TILES)
    monkeypatch.undo()
    np.testing.assert_array_equal(engine.logits(CASE.tokens(), TILES).logits, wanted)


def test_a_layer_that_was_applied_twice_is_noticed(engine, monkeypatch) -> None:
    hooks = engine.decoder._hooks
    apply = hooks._apply

    def twice(name, tensor, memory) -> None:
        apply(name, tensor, memory)
        apply(name, tensor, memory)

    monkeypatch.setattr(hooks, "_apply", twice)
    with pytest.raises(CheckFailedError):
        engine.logits(CASE.tokens(), TILES)


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_a_hook_raises_comes_out_unchanged(engine, monkeypatch, error: BaseException) -> None:
    wanted = engine.logits(CASE.tokens(), TILES).logits

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(engine.cross_attention, "apply", fail)
    with pytest.raises(type(error)) as caught:
        engine.logits(CASE.tokens(), TILES)
    assert caught.value is error
    monkeypatch.undo()
    np.testing.assert_array_equal(engine.logits(CASE.tokens(), TILES).logits, wanted)


def test_the_decoder_refuses_the_main_thread(engine) -> None:
    with pytest.raises(ComputeError, match="main thread"):
        engine.decoder.prefill([1, 2, 3], None)


def test_numbers_that_are_not_finite_are_no_result(engine) -> None:
    broken = Tiles(np.full_like(TILES.pixel_values, 3e38), TILES.aspect_ratio)
    with pytest.raises(ComputeError, match="not all finite"):
        engine.logits(CASE.tokens(), broken)
