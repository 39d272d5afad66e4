"""``max_tiles`` against the reference's ``max_image_tiles``: canvases, sizes and pixels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_preprocess_fixture import STD, picture, reference_size, sample_positions
from make_tile_limit_fixture import FIXTURE, LIMITS, limited
from PIL import Image
from test_preprocess import CANVASES, config

from visionward.runtime.images.preprocess import choose_canvas, resized_size, tile_image

FIXTURE_DATA = json.loads(FIXTURE.read_text())


def our_size(height, width, tile_size, max_tiles):
    canvas = choose_canvas(height, width, config(tile_size), max_tiles)
    return [*canvas, *resized_size(height, width, canvas, tile_size)]


def test_canvas_and_size_of_many_sizes():
    for height, width, tile_size, limit, *expected in FIXTURE_DATA["sizes"]:
        assert our_size(height, width, tile_size, limit) == expected, (height, width, limit)


@pytest.mark.parametrize(
    "expected", FIXTURE_DATA["pictures"], ids=lambda entry: f"{entry['name']}-{entry['max_tiles']}"
)
def test_pictures_against_stored_samples(expected):
    tiles = tile_image(picture(expected["name"]), config(expected["tile_size"]), expected["max_tiles"])
    assert list(tiles.aspect_ratio) == expected["canvas"]
    ours = np.array([tiles.pixel_values[position] for position in sample_positions(tiles.pixel_values.shape)])
    # One byte level, by which resizers of other versions may differ.
    assert np.abs(ours - expected["samples"]).max() <= 1 / 255 / min(STD) + 1e-5
    assert abs(tiles.pixel_values.mean(dtype=np.float64) - expected["mean"]) < 1e-3


def test_the_preferred_canvas_is_known_and_ids_are_the_models():
    wide = tile_image(picture("pattern/60x110"), config(56), 2)
    assert (wide.aspect_ratio, wide.preferred, wide.preferred_tiles) == ((1, 2), (2, 2), 4)
    tall = tile_image(picture("pattern/110x60"), config(56), 2)
    # In a list of canvases with at most two tiles it would be 3.
    assert config(56).aspect_ratio_id(tall.aspect_ratio) == 1 + CANVASES.index((2, 1)) == 5
    small = tile_image(picture("pattern/40x50"), config(56), 1)
    assert (small.aspect_ratio, small.preferred, small.preferred_tiles) == ((1, 1), None, 1)


def test_a_limit_of_the_models_own_changes_nothing():
    for size in ("61x223", "150x170", "300x60", "40x50"):
        image = picture(f"pattern/{size}")
        assert tile_image(image, config(28), 4).digest == tile_image(image, config(28)).digest


@pytest.mark.reference
@given(st.integers(1, 12000), st.integers(1, 12000), st.sampled_from([14, 28, 448, 560]), st.sampled_from(LIMITS))
@settings(max_examples=3000, deadline=None)
def test_canvas_and_size_against_the_reference(height, width, tile_size, limit):
    assert our_size(height, width, tile_size, limit) == reference_size(height, width, tile_size, limit)


@pytest.mark.reference
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([14, 28, 56]),
    st.sampled_from(LIMITS),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_noise_equals_the_reference(height, width, tile_size, limit, seed):
    noise = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    values, canvas = limited(noise, tile_size, limit)
    tiles = tile_image(noise, config(tile_size), limit)
    assert tiles.aspect_ratio == canvas
    assert np.array_equal(tiles.pixel_values, values)
