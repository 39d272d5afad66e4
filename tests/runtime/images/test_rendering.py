"""One picture as a viewer shows it: turned, on a background, and without taking memory twice over."""

import subprocess
import sys
from pathlib import Path

import image_files
import numpy as np
import pytest
from PIL import Image

from visionward.runtime.images import rendering
from visionward.runtime.images.rendering import BLACK, Rendering, is_transparent

TRANSPOSES = [None, *Image.Transpose]


@pytest.mark.parametrize("upright", TRANSPOSES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK"])
def test_strips_make_the_whole_picture(monkeypatch, upright, mode):
    array = np.random.default_rng(2).integers(0, 256, (17, 23, 4), dtype=np.uint8)
    image = (
        Image.fromarray(array[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(array).convert(mode)
    )
    whole = Rendering.of(image).whole()
    expected = whole if upright is None else whole.transpose(upright)
    monkeypatch.setattr(rendering, "_STRIP_PIXELS", 60)
    found = Rendering.of(image, upright=upright)
    assert found.size == expected.size
    assert np.array_equal(found.whole(), expected)


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.new("RGB", (3, 3)), False),
        (Image.new("RGBA", (3, 3), (1, 2, 3, 255)), False),
        (Image.new("RGBA", (3, 3), (1, 2, 3, 254)), True),
        (Image.new("LA", (3, 3), (1, 0)), True),
        (Image.new("La", (3, 3), (0, 0)), True),
    ],
)
def test_what_is_transparent(image, transparent):
    assert is_transparent(image) == transparent


def test_transparency_by_a_named_colour():
    for mode, colour in (("L", 7), ("RGB", (7, 8, 9)), ("P", 7), ("I;16", 1799)):
        image = Image.new(mode, (2, 1), colour)
        assert not is_transparent(image)
        image.info["transparency"] = colour
        assert is_transparent(image), mode
        assert Rendering.of(image).whole().getpixel((0, 0)) == (255, 255, 255)
        assert Rendering.of(image, BLACK).whole().getpixel((0, 0)) == (0, 0, 0)
        image.info["transparency"] = tuple(c + 1 for c in colour) if mode == "RGB" else colour + 1
        if mode != "P":
            assert not is_transparent(image), mode


def test_on_black():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 128)])
    expected = [[200, 100, 0], [0, 0, 0], [round(200 * 128 / 255), round(100 * 128 / 255), 0]]
    assert np.abs(np.asarray(Rendering.of(rgba, BLACK).whole())[0].astype(int) - expected).max() <= 1


MEASURE = """
import sys
from pathlib import Path
from PIL import Image
from visionward.runtime.images.images import decode_image
Image.init()
decode_image(Path(sys.argv[2]))
status = Path("/proc/self/status")
def peak():
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
picture = decode_image(Path(sys.argv[1]))
print((peak() - before) / (picture.width * picture.height))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak from /proc")
def test_a_transparent_picture_is_held_twice_and_not_five_times(tmp_path):
    Image.new("RGBA", (3000, 3000), (1, 2, 3, 4)).save(tmp_path / "large.png", compress_level=1)
    image_files.picture(1, channels=4).save(tmp_path / "small.png")
    command = [sys.executable, "-c", MEASURE, tmp_path / "large.png", tmp_path / "small.png"]
    bytes_per_pixel = float(subprocess.run(command, capture_output=True, check=True).stdout)
    assert bytes_per_pixel < 11
