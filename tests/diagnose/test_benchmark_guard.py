"""What the benchmark's guard really does: it encodes at every first look, and decodes one token at a time."""

import numpy as np
import pytest

from visionward import Guard
from visionward.convert.demo_guard import demo_pair
from visionward.diagnose.benchmark import synthetic_picture
from visionward.diagnose.benchmark_guard import BenchmarkGuard
from visionward.errors import ComputeError, ModelFileError
from visionward.runtime.decoder.decoder import Decoder
from visionward.runtime.vision.ggml_tower import GgmlTower

PROMPT = "What is in this picture?"


@pytest.fixture(scope="module")
def picture():
    return synthetic_picture()


@pytest.fixture
def guard():
    pair = demo_pair()
    subject = BenchmarkGuard(pair.text, pair.mmproj, threads=1)
    yield subject
    subject.close()


@pytest.fixture
def encoded(monkeypatch):
    """Tiles of each image that was encoded."""
    seen = []
    encode = GgmlTower.encode

    def counted(self, tiles, on_layer):
        seen.append(len(tiles.pixel_values))
        return encode(self, tiles, on_layer)

    monkeypatch.setattr(GgmlTower, "encode", counted)
    return seen


def test_looks(guard, picture, encoded):
    first = [guard.classify_new(picture, PROMPT) for _ in range(3)]
    assert encoded == [4, 4, 4]
    again = [guard.classify_again(picture, PROMPT) for _ in range(2)]
    assert encoded == [4, 4, 4]
    assert guard.engine.image_cache.hits == 2
    assert all(verdict is not None for verdict in again)
    # The cache is used as every guard uses it, so that nothing else differs.
    pair = demo_pair()
    with Guard.load(pair.text, pair.mmproj, threads=1) as plain:
        expected = plain.classify(image=picture, prompt=PROMPT).score
    assert {verdict.score for verdict in (*first, *again)} == {expected}
    assert (guard.device, guard.threads, guard.kernels) == ("CPU", 1, "plain")


def test_an_image_that_the_cache_cannot_hold(picture):
    pair = demo_pair()
    guard = BenchmarkGuard(pair.text, pair.mmproj, threads=1, image_cache_bytes=0)
    guard.classify_new(picture, PROMPT)
    assert guard.classify_again(picture, PROMPT) is None
    guard.close()


def test_times_of_a_cached_image_are_refused(guard, picture, monkeypatch):
    guard.classify_new(picture, PROMPT)
    monkeypatch.setattr(guard.engine, "drop_images", lambda: None)
    with pytest.raises(ComputeError, match="taken from the image cache"):
        guard.classify_new(picture, PROMPT)


def test_tokens_are_decoded_one_by_one(guard, picture, monkeypatch):
    lengths = []
    extend = Decoder.extend

    def counted(self, tokens):
        lengths.append(len(tokens))
        return extend(self, tokens)

    monkeypatch.setattr(Decoder, "extend", counted)
    times = guard.token_times(picture, PROMPT, 5)
    assert lengths[:6] == [1] * 6
    assert len(times) == 5
    assert np.isfinite(times).all()
    assert min(times) > 0
    # And the guard is as good as before.
    assert guard.classify_new(picture, PROMPT).verdict in {"safe", "unsafe"}


def test_a_guard_that_cannot_be_loaded(tmp_path):
    pair = demo_pair()
    with pytest.raises(ModelFileError):
        BenchmarkGuard(tmp_path / "none.gguf", pair.mmproj)


def test_an_engine_that_is_no_guard_is_closed(monkeypatch):
    engines = []

    def refuse(engine):
        engines.append(engine)
        raise ModelFileError("no guard")

    monkeypatch.setattr("visionward.diagnose.benchmark_guard.Guard", refuse)
    pair = demo_pair()
    with pytest.raises(ModelFileError, match="no guard"):
        BenchmarkGuard(pair.text, pair.mmproj, threads=1)
    with pytest.raises(ComputeError, match="was closed"):
        engines[0].run(lambda: None)
