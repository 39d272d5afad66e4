"""Images that were encoded already are not encoded again, and the memory bound holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward import Engine, Guard
from visionward.names import DEFAULT_IMAGE_CACHE_BYTES
from visionward.runtime.image_cache import ImageCache

PICTURES = [np.random.default_rng(seed).integers(0, 255, (50, 50, 3), np.uint8) for seed in range(3)]


class FakeImage:
    """Counts how many are alive."""

    alive = 0

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.open = True
        FakeImage.alive += 1

    def close(self) -> None:
        assert self.open
        self.open = False
        FakeImage.alive -= 1


@given(
    requests=st.lists(st.integers(0, 5), max_size=40),
    sizes=st.lists(st.integers(1, 60), min_size=6, max_size=6),
    capacity=st.integers(0, 100),
)
def test_the_bound_holds_and_nothing_leaks(requests: list[int], sizes: list[int], capacity: int) -> None:
    FakeImage.alive = 0
    cache = ImageCache(capacity)
    for number in requests:
        with cache.hold(bytes([number]), lambda number=number: FakeImage(sizes[number])) as image:
            assert image.open
            assert image.nbytes == sizes[number]
        assert cache.statistics.nbytes <= capacity
        assert cache.statistics.entries == FakeImage.alive
    assert cache.statistics.hits + cache.statistics.misses == len(requests)
    cache.close()
    assert FakeImage.alive == 0


def test_the_least_recently_used_goes_first() -> None:
    cache, encoded = ImageCache(2), []

    def use(number: int) -> None:
        def encode() -> FakeImage:
            encoded.append(number)
            return FakeImage(1)

        with cache.hold(bytes([number]), encode):
            pass

    for number in (1, 2, 1, 3, 1, 2):
        use(number)
    assert encoded == [1, 2, 3, 2]


def test_an_error_inside_leaks_nothing() -> None:
    FakeImage.alive = 0
    cache = ImageCache(10)
    with pytest.raises(ZeroDivisionError), cache.hold(b"1", lambda: FakeImage(20)):
        raise ZeroDivisionError
    assert FakeImage.alive == 0


@pytest.fixture
def guard(pair_of):
    pair = pair_of("plain", "f16")
    with Guard(Engine(pair.text, pair.mmproj, n_ctx=512, threads=1)) as guard:
        yield guard


def test_a_response_after_its_prompt_does_not_look_again(guard: Guard, monkeypatch) -> None:
    first = guard.classify(image=PICTURES[0], prompt="Look")
    monkeypatch.setattr(guard.engine.tower, "encode", None)
    again = guard.classify(image=PICTURES[0], prompt="Look")
    response = guard.classify(image=PICTURES[0], prompt="Look", response="I see")
    assert (again.score, again.answer_mass, again.category_scores) == (
        first.score,
        first.answer_mass,
        first.category_scores,
    )
    assert response.score != first.score
    assert (guard.engine.image_cache.hits, guard.engine.image_cache.misses) == (2, 1)


def test_other_pixels_are_another_image(guard: Guard) -> None:
    changed = PICTURES[0].copy()
    changed[20, 20, 1] ^= 1
    scores = {guard.classify(image=picture, prompt="Look").score for picture in (*PICTURES, changed)}
    assert guard.engine.image_cache.misses == 4
    assert len(scores) == 4


def test_without_a_cache(pair_of) -> None:
    pair = pair_of("plain", "f16")
    with Guard(Engine(pair.text, pair.mmproj, n_ctx=512, threads=1, image_cache_bytes=0)) as guard:
        scores = {guard.classify(image=PICTURES[0], prompt="Look").score for _ in range(2)}
        assert len(scores) == 1
        assert guard.engine.image_cache.misses == 2
        assert guard.engine.image_cache.nbytes == 0


def test_the_guard_takes_its_size(pair_of) -> None:
    pair = pair_of("plain", "f16")
    capacities = []
    for options in ({}, {"image_cache_bytes": 0}, {"image_cache_bytes": 3 * 2**20}):
        with Guard.load(pair.text, pair.mmproj, n_ctx=512, threads=1, **options) as guard:
            guard.classify(image=PICTURES[0], prompt="Look")
            found = guard.engine.image_cache
            assert found.entries == (found.capacity > 0)
            capacities.append(found.capacity)
    assert capacities == [DEFAULT_IMAGE_CACHE_BYTES, 0, 3 * 2**20]
    with pytest.raises(ValueError, match="image_cache_bytes is -1; it must be at least 0"):
        Guard.load(pair.text, pair.mmproj, image_cache_bytes=-1)
