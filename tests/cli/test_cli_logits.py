"""The logits command writes what the engine computes."""

import numpy as np
import pytest
from tiny_checkpoint import IMAGE_TOKEN_ID, VOCABULARY

TOKENS = f"500,{IMAGE_TOKEN_ID},7,8"
LIGHT = ("--threads", 1)


def written(path):
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def test_text_alone(run, model, tmp_path):
    out = tmp_path / "out.npz"
    result = run("logits", *model, "--tokens", " 500, 7,8", "--out", out, *LIGHT)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}: logits 3 x {VOCABULARY}\n"
    arrays = written(out)
    assert list(arrays) == ["logits"]
    assert (arrays["logits"].shape, arrays["logits"].dtype) == ((3, VOCABULARY), np.float32)


def test_image_and_its_pixels_agree(run, model, picture, tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second"
    assert run("logits", *model, "--image", picture, "--tokens", TOKENS, "--out", first, *LIGHT).exit_code == 0
    arrays = written(first)
    assert sorted(arrays) == ["features", "logits", "pixels"]
    assert arrays["pixels"].shape == (1, 3, 56, 56)
    assert arrays["features"].shape == (1, 17, 256)
    assert arrays["logits"].shape == (4, VOCABULARY)

    # As Transformers pads it, and in another precision.
    padded = np.concatenate([arrays["pixels"], np.zeros((3, 3, 56, 56))])
    np.savez(tmp_path / "pixels.npz", pixel_values=padded, aspect_ratio=np.array([1, 1], np.int32))
    given = ("--pixels", tmp_path / "pixels.npz", "--tokens", TOKENS, "--ubatch", 2)
    assert run("logits", *model, *given, "--out", second, *LIGHT).exit_code == 0
    again = written(second)
    assert (again["pixels"] == arrays["pixels"]).all()
    np.testing.assert_allclose(again["logits"], arrays["logits"], atol=2e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.npz", "pixels.npz", "second"]


def test_exact(run, model, picture, tmp_path):
    for name, options in (("exact", ("--exact",)), ("default", ())):
        arguments = ("--image", picture, "--tokens", TOKENS, "--out", tmp_path / name, *LIGHT, *options)
        assert run("logits", *model, *arguments).exit_code == 0
    exact, default = (written(tmp_path / name)["logits"] for name in ("exact", "default"))
    assert 0 < np.abs(exact - default).max() < 0.05


PIXELS = np.zeros((1, 3, 56, 56), np.float32)
ONE = np.array([1, 1])


@pytest.mark.parametrize(
    ("arrays", "fragment"),
    [
        ({"pixel_values": PIXELS}, "missing aspect_ratio; found pixel_values"),
        ({}, "missing pixel_values and aspect_ratio; found nothing"),
        ({"pixel_values": PIXELS[0], "aspect_ratio": ONE}, "expected floats (tiles, 3, H, W)"),
        ({"pixel_values": PIXELS.astype(np.uint8), "aspect_ratio": ONE}, "expected floats"),
        ({"pixel_values": PIXELS, "aspect_ratio": np.array([1.0, 1.0])}, "expected two integers"),
        ({"pixel_values": PIXELS, "aspect_ratio": np.array([[1, 1]])}, "expected two integers"),
        ({"pixel_values": PIXELS, "aspect_ratio": np.array([-1, -1])}, "expected two integers"),
        ({"pixel_values": PIXELS, "aspect_ratio": np.array([2, 2])}, "takes 4"),
        ({"pixel_values": np.ones((2, 3, 56, 56)), "aspect_ratio": ONE}, "are not zero"),
        ({"pixel_values": PIXELS + np.nan, "aspect_ratio": ONE}, "not all finite"),
        ({"pixel_values": PIXELS.astype(np.float64) + 1e300, "aspect_ratio": ONE}, "not all finite"),
        ({"pixel_values": np.array([{}]), "aspect_ratio": ONE}, "cannot be read"),
        ({"pixel_values": np.zeros((1, 3, 28, 28)), "aspect_ratio": ONE}, "takes float32 (1, 3, 56, 56)"),
        ({"pixel_values": np.zeros((9, 3, 56, 56)), "aspect_ratio": np.array([3, 3])}, "not one of the model's"),
    ],
)
def test_pixels_that_cannot_be_used(run, model, tmp_path, arrays, fragment):
    np.savez(tmp_path / "pixels.npz", **arrays)
    arguments = ("--pixels", tmp_path / "pixels.npz", "--tokens", TOKENS, "--out", tmp_path / "out.npz")
    result = run("logits", *model, *arguments, *LIGHT)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert fragment in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pixels.npz"]


def test_a_single_array(run, model, tmp_path):
    np.save(tmp_path / "pixels.npy", PIXELS)
    arguments = ("--pixels", tmp_path / "pixels.npy", "--tokens", TOKENS, "--out", tmp_path / "out.npz")
    assert "a single array" in run("logits", *model, *arguments).stderr


@pytest.mark.parametrize(
    ("tokens", "fragment"),
    [("500,7", "expected 1"), (f"{IMAGE_TOKEN_ID},{IMAGE_TOKEN_ID}", "expected 1"), (f"{TOKENS},9999", "9999")],
)
def test_tokens_that_do_not_fit(run, model, picture, tmp_path, tokens, fragment):
    arguments = ("--image", picture, "--tokens", tokens, "--out", tmp_path / "out.npz", *LIGHT)
    result = run("logits", *model, *arguments)
    assert result.exit_code == 2
    assert fragment in result.stderr
    assert not list(tmp_path.iterdir())
