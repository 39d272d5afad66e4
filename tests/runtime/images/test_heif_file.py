"""HEIF files, against pillow-heif's own decoding and against the pixels that were encoded."""

import io
import subprocess
import sys

import icc_profiles as icc
import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import MemoryBudget, decoding, frames, opened, picture
from onnx_towers import limit_memory
from PIL import Image, ImageFile

from visionward.errors import ImageError
from visionward.formats.mmproj_format import VisionConfig
from visionward.machine import extras
from visionward.runtime.images.heif_file import is_heif
from visionward.runtime.images.images import decode_image
from visionward.runtime.images.pictures import Pictures

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
LOSSLESS = {"quality": -1, "chroma": 444}


def heif(*images, primary=0, **options):
    made = pillow_heif.HeifFile()
    for image in images:
        made.add_from_pillow(image)
    buffer = io.BytesIO()
    made.save(buffer, primary_index=primary, **(LOSSLESS | options))
    return buffer.getvalue()


def by_pillow_heif(data):
    return pillow_heif.read_heif(data).to_pillow()


PHOTO = picture(3, 70, 90)


@pytest.mark.parametrize("options", [{}, {"quality": 50, "chroma": 420}, {"tile_size": 64}], ids=str)
def test_pixels_are_those_of_pillow_heif(options):
    data = heif(PHOTO, **options)
    assert np.array_equal(decode_image(data), by_pillow_heif(data))
    if not options:
        assert np.abs(np.asarray(decode_image(data), np.int16) - np.asarray(PHOTO)).max() <= 2


def test_a_file_is_read_by_its_contents_and_not_its_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(heif(PHOTO))
    assert np.array_equal(decode_image(path), by_pillow_heif(path))


def test_grey_and_ten_bits():
    grey = PHOTO.convert("L")
    assert np.abs(np.asarray(decode_image(heif(grey)), np.int16)[..., 0] - np.asarray(grey)).max() <= 1
    wide = np.asarray(PHOTO).astype(np.uint16) * 257
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", PHOTO.size, wide.tobytes()).save(buffer, **LOSSLESS)
    assert pillow_heif.open_heif(buffer).info["bit_depth"] == 10
    assert np.abs(np.asarray(decode_image(buffer.getvalue()), np.int16) - np.asarray(PHOTO)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(orientation):
    corners = np.zeros((64, 96, 3), np.uint8)
    corners[:32, :32], corners[:32, 64:], corners[32:, :32] = RED, GREEN, BLUE
    upright = Image.fromarray(corners)
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpose methods by number
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = pillow_heif.from_pillow(stored)
    made.info["exif"] = exif.tobytes()  # written as irot and imir
    buffer = io.BytesIO()
    made.save(buffer, **LOSSLESS)
    image = decode_image(buffer.getvalue())
    assert image.size == upright.size
    assert np.abs(np.asarray(image, np.int16) - corners).max() <= 2


def test_transparency_is_judged_on_white_and_on_black():
    alpha = np.full((40, 40), 255, np.uint8)
    alpha[:20] = 0
    data = heif(Image.merge("RGBA", (*picture(4, 40, 40).split(), Image.fromarray(alpha))))
    with decoding(data), opened(data, MemoryBudget()) as file:
        white, black = (rendering.whole() for rendering in file.picture(0).renderings())
    assert set(np.asarray(white)[:20].ravel()) == {255}
    assert set(np.asarray(black)[:20].ravel()) == {0}
    assert np.array_equal(np.asarray(white)[20:], np.asarray(black)[20:])


def test_every_picture_is_judged_the_primary_one_too():
    images = [Image.new("RGB", (16 + 16 * n, 32), colour) for n, colour in enumerate((RED, GREEN, BLUE))]
    data = heif(*images, primary=1)
    found, total = frames(data)
    assert total == 3
    assert [image.size for image in found] == [image.size for image in images]
    for image, colour in zip(found, (RED, GREEN, BLUE), strict=True):
        assert np.abs(np.subtract(image.getpixel((3, 3)), colour)).max() <= 2
    assert [image.size for image in frames(data, 1)[0]] == [images[0].size, images[1].size]
    config = VisionConfig(
        tile_size=64, patch_size=16, width=1, feed_forward_length=1, head_count=1, local_layers=1, global_layers=1,
        intermediate_layers=(), max_tiles=1, aspect_ratios=((1, 1),), layer_norm_epsilon=1e-5,
        image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), padding_collapses=True,
    )  # fmt: skip
    pictures = Pictures(data, config, 4, MemoryBudget())
    assert len(list(pictures)) == 3
    assert (pictures.frames.judged, pictures.frames.total) == (3, 3)


def test_thumbnails_are_no_pictures():
    made = pillow_heif.from_pillow(picture(5, 128, 128))
    buffer = io.BytesIO()
    made.info["thumbnails"] = [64]
    made.save(buffer)
    assert pillow_heif.open_heif(buffer).info["thumbnails"]
    assert frames(buffer.getvalue())[1] == 1


def test_a_profile_is_applied():
    image = picture(6, 40, 60)
    image.info["icc_profile"] = icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve())
    data = heif(image)
    stored = np.asarray(by_pillow_heif(data))
    expected = icc.in_srgb(stored, icc.P3_XY, icc.to_linear)
    assert np.abs(expected - stored).max() > 40
    assert np.abs(np.asarray(decode_image(data)) - expected).max() < 1.6


@pytest.mark.parametrize(("primaries", "transfer", "named"), [(1, 13, False), (9, 16, True), (12, 13, True)])
def test_code_points_are_named(primaries, transfer, named):
    image = picture(7)
    image.info["nclx_profile"] = {
        "color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 6,
        "full_range_flag": 1,
    }  # fmt: skip
    data = heif(image)
    with decoding(data), opened(data, MemoryBudget()) as file:
        assert bool(file.picture(0).colours.notes) == named


def test_the_decoder_is_not_registered_for_the_rest_of_the_program(tmp_path):
    path = tmp_path / "photo.heic"
    path.write_bytes(heif(PHOTO))
    program = (
        "import sys; from PIL import Image\n"
        "from visionward.runtime.images.images import decode_image\n"
        "assert 'pillow_heif' not in sys.modules\n"
        "assert decode_image(sys.argv[1]).size == (90, 70)\n"
        "Image.init(); assert 'HEIF' not in Image.OPEN and '.heic' not in Image.EXTENSION\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "pillow_heif" else found(name))
    path = tmp_path / "photo.heic"
    path.write_bytes(heif(PHOTO))
    with pytest.raises(ImageError, match=r"HEIC.*install 'visionward\[heif\]', or convert the image to JPEG") as caught:
        decode_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_memory_limit_holds(monkeypatch):
    data = heif(PHOTO)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 70 - 1)
    with pytest.raises(ImageError, match="too many pixels: 90 x 70"):
        decode_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    limit_memory(monkeypatch, None)
    large = heif(Image.new("RGB", (2000, 2000)), quality=10, chroma=420)
    with decoding(large), opened(large, MemoryBudget(1)) as file, pytest.raises(ImageError, match="memory limit"):
        file.picture(0)


@pytest.mark.parametrize("tolerant", [False, True])
def test_cut_files_are_refused(monkeypatch, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = heif(PHOTO)
    for length in (1, 12, 20, 100, 400, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError):
            decode_image(data[:length])


def box(kind, content=b""):
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def test_a_sequence_is_refused():
    """Its frames are in a track, which pillow-heif does not show."""
    data = heif(PHOTO)
    with pytest.raises(ImageError, match="a HEIF image sequence"):
        decode_image(data + box(b"moov", box(b"mvhd")))
    large = (1).to_bytes(4, "big") + b"free" + (24).to_bytes(8, "big") + bytes(8)
    with pytest.raises(ImageError, match="a HEIF image sequence"):
        decode_image(data + large + box(b"moov"))
    assert decode_image(data + box(b"free", b"moov")).size == PHOTO.size


@pytest.mark.parametrize(
    ("major", "compatible", "expected"),
    [
        (b"heic", [b"mif1", b"heic"], True),
        (b"heix", [b"avif"], True),
        (b"mif1", [b"heic"], True),
        (b"msf1", [], True),
        (b"mif1", [b"avif", b"mif1"], False),
        (b"avif", [b"mif1"], False),
        (b"isom", [b"heic"], False),
    ],
)
def test_brands(major, compatible, expected):
    stream = io.BytesIO(box(b"ftyp", major + bytes(4) + b"".join(compatible)) + box(b"meta", b"avif"))
    assert is_heif(stream) == expected
    assert stream.tell() == 0


FILES = [heif(PHOTO), heif(PHOTO, picture(8, 20, 30)), heif(Image.new("RGBA", (40, 40), (1, 2, 3, 4)))]


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_pictures_or_image_errors(data, draw):
    damaged = bytearray(data)
    places = st.integers(0, min(len(data), 700) - 1) | st.integers(0, len(data) - 1)
    for position, value in draw.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        damaged[position] = value
    try:
        shown, _ = frames(bytes(damaged), 4)
    except ImageError:
        return
    assert all(image.mode == "RGB" for image in shown)
