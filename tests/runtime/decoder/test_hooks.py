"""A decode that leaves a layer out must never become a result."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from image_variants import CASES

from visionward import Engine
from visionward.errors import CheckFailedError, ComputeError
from visionward.runtime.ggml import ggml
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


# ctypes' flag of functions that keep the GIL.
_KEEPS_GIL = 4


@pytest.mark.parametrize(("checkpoint", "hooks"), [("plain", 2), ("stacked", 2)])
def test_a_hook_is_one_graph_and_gives_up_the_gil_three_times(
    pair_of, monkeypatch, checkpoint: str, hooks: int
) -> None:
    """A busy Python thread gives it back 0.1 ms later. Building a graph calls ggml 30 times, and keeps it."""
    called: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: (called.update([name]), function(*arguments))[1]

    pair, case = pair_of(checkpoint), next(case for case in CASES if case.checkpoint == checkpoint)
    with closing(Engine(pair.text, pair.mmproj, n_ctx=128, threads=1, gpu_layers=0)) as engine:

        def job() -> Counter[str]:
            tiles = Tiles(case.pixels(), case.aspect_ratio)
            with engine.evaluate(tiles) as evaluation, monkeypatch.context() as patched:
                for name, function in vars(ggml).items():
                    if getattr(function, "_flags_", _KEEPS_GIL) & _KEEPS_GIL == 0:
                        patched.setattr(ggml, name, counted(name, function))
                evaluation.prefill(case.tokens())
                return called.copy()

        expected = ("gallocr_alloc_graph", "backend_tensor_alloc", "backend_graph_compute")
        assert engine.run(job) == dict.fromkeys(expected, hooks)
        assert len(engine.decoder._hooks._layers) == hooks


def test_the_keys_and_values_of_an_image_are_one_graph(pair_of, monkeypatch) -> None:
    pair, graphs, compute = pair_of("stacked"), [], ggml.backend_graph_compute
    with closing(Engine(pair.text, pair.mmproj, n_ctx=128, threads=1, gpu_layers=0)) as engine:
        monkeypatch.setattr(ggml, "backend_graph_compute", lambda *graph: (graphs.append(1), compute(*graph))[1])

        def job() -> None:
            with engine.evaluate(TILES):
                # Embedding, layers, projection, the check; keys and values.
                assert len(graphs) == 3 + engine.config.vision.layers + 1

        engine.run(job)
