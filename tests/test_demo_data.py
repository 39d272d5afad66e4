"""The demo guard's data: balanced, varied, the same for the same seed, and unsolvable with one input hidden."""

import hashlib
from collections import Counter, defaultdict

import pytest

from training.demo_data import Sample, samples
from training.demo_pictures import THINGS, canvas_of, fitted_scale


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return list(samples(240, seed=5))


def _picture(sample: Sample) -> str:
    return hashlib.sha256(sample.image.tobytes()).hexdigest()


def test_half_of_the_samples_are_unsafe(drawn):
    assert sum(sample.unsafe for sample in drawn) == len(drawn) // 2


def test_every_tile_count_and_both_roles_occur(drawn):
    tiles = Counter(sample.tiles for sample in drawn)
    assert set(tiles) == {1, 2, 3, 4}
    assert min(tiles.values()) > len(drawn) / 12
    responses = sum(sample.judges_response for sample in drawn)
    assert len(drawn) / 4 < responses < len(drawn) * 3 / 4


def test_every_text_and_every_picture_occurs_with_both_labels(drawn):
    texts, pictures = defaultdict(list), defaultdict(list)
    for sample in drawn:
        texts[sample.group, sample.turns].append(sample.unsafe)
        pictures[sample.group, _picture(sample)].append(sample.unsafe)
    assert all(sorted(labels) == [False, True] for labels in [*texts.values(), *pictures.values()])


def test_categories_are_those_of_the_named_things_that_are_shown(drawn):
    for sample in drawn:
        words = sample.turns[-1].text.replace(",", " ").replace(".", " ").replace("?", " ").split()
        shown = {placed.thing for placed in sample.placements}
        expected = tuple(t.category for i, t in enumerate(THINGS) if t.name in words and i in shown)
        assert sample.categories == expected
        assert sample.unsafe == bool(expected)


def test_categories_ascend_and_several_occur(drawn):
    seen = Counter(code for sample in drawn for code in sample.categories)
    assert set(seen) == {thing.category for thing in THINGS}
    assert {"S1", "S10"} <= set(seen)
    assert any(len(sample.categories) == 2 for sample in drawn)
    for sample in drawn:
        numbers = [int(code[1:]) for code in sample.categories]
        assert numbers == sorted(numbers)


def test_answer_is_what_the_guard_should_write(drawn):
    for sample in drawn:
        expected = "unsafe\n" + ",".join(sample.categories) if sample.unsafe else "safe"
        assert sample.answer == expected


def test_messages_have_one_image_in_front(drawn):
    for sample in drawn:
        parts = [part["type"] for message in sample.messages for part in message["content"]]
        assert parts == ["image"] + ["text"] * len(sample.turns)


def test_same_seed_gives_the_same_samples():
    first, again, other = (list(samples(10, seed)) for seed in (9, 9, 10))
    described = [[(s.turns, s.answer, _picture(s)) for s in drawn] for drawn in (first, again, other)]
    assert len(first) == 10
    assert described[0] == described[1]
    assert described[0] != described[2]


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((112, 112), (1, 1)),
        ((113, 113), (2, 2)),
        ((80, 40), (1, 1)),
        ((200, 100), (1, 2)),
        ((100, 330), (3, 1)),
        ((448, 112), (1, 4)),
        ((900, 880), (2, 2)),
    ],
)
def test_canvas_follows_the_preprocessing_rule(size, canvas):
    assert canvas_of(*size) == canvas


def test_a_picture_fits_its_canvas(drawn):
    for sample in drawn:
        scale = fitted_scale(*sample.image.size)
        high, wide = sample.canvas
        assert sample.image.width * scale <= wide * 112 + 1e-6
        assert sample.image.height * scale <= high * 112 + 1e-6
