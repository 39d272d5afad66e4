import base64
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import frames
from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images.images import decode_data_url, decode_image
from visionward.runtime.images.rendering import Rendering

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image):
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def grey_png_16(values):
    """A 16-bit greyscale PNG of one row, written by hand: Pillow's way of doing so differs between versions."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.fixture
def photo():
    rows, columns = np.mgrid[0:48, 0:64]
    red_green = np.stack([rows * 5, columns * 3, (rows * columns) % 256], axis=2)
    return Image.fromarray(red_green.astype(np.uint8))


def test_a_file_its_bytes_its_pil_image_and_its_array_are_the_same_picture(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    for source in (path, str(path), path.read_bytes(), photo, np.asarray(photo)):
        image = decode_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(photo))


def test_transparency_is_composited_on_white():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(*RED, 255), (*RED, 0), (*RED, 128)])
    expected = [RED, WHITE, (255, 127, 127)]
    assert pixels(decode_image(rgba)) == expected
    assert pixels(decode_image(encoded(rgba))) == expected
    assert pixels(decode_image(np.asarray(rgba))) == expected


def palette_image(**info):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (1, 1), 1), [WHITE]),
        (Image.new("L", (1, 1), 100), [(100, 100, 100)]),
        (Image.new("LA", (1, 1), (0, 0)), [WHITE]),
        (Image.new("La", (1, 1), (0, 0)), [WHITE]),
        (Image.new("RGBa", (1, 1), (0, 0, 0, 0)), [WHITE]),
        (Image.new("RGBX", (1, 1), (*BLUE, 0)), [BLUE]),
        (palette_image(), [RED, GREEN]),
        (palette_image(transparency=0), [WHITE, GREEN]),
        (palette_image(transparency=b"\xff\x00"), [RED, WHITE]),
        (palette_image().convert("PA"), [RED, GREEN]),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [RED]),
        (Image.new("YCbCr", (1, 1), (255, 128, 128)), [WHITE]),
        (Image.new("HSV", (1, 1), (0, 255, 255)), [RED]),
        (Image.new("I;16", (1, 1), 257 * 100), [(100, 100, 100)]),
        (Image.new("I", (1, 1), 257 * 100), [(100, 100, 100)]),
        (Image.new("I", (1, 1), 100), [(100, 100, 100)]),
        (Image.new("F", (1, 1), 0.4), [(102, 102, 102)]),
        (Image.new("F", (1, 1), 102.2), [(102, 102, 102)]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_rgb(image, expected):
    assert pixels(Rendering.of(image).whole()) == expected


def test_16_bit_greyscale_is_scaled_and_not_clipped():
    values = [0, 128, 129, 257, 1000, 25700, 65535]
    expected = [(round(value / 257),) * 3 for value in values]
    assert pixels(decode_image(grey_png_16(values))) == expected
    assert pixels(decode_image(grey_png_16([200]))) == [(1, 1, 1)]  # dark, not an 8-bit value
    tiff = Image.fromarray(np.array([values], np.uint16))
    assert pixels(decode_image(encoded(tiff, "TIFF"))) == expected


def test_the_colour_that_a_png_names_transparent_is_white():
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 8])
    assert pixels(decode_image(encoded(grey, transparency=7))) == [WHITE, (8, 8, 8)]
    colour = Image.new("RGB", (2, 1), RED)
    colour.putpixel((1, 0), BLUE)
    assert pixels(decode_image(encoded(colour, transparency=RED))) == [WHITE, BLUE]
    wide = Image.new("I;16", (2, 1))
    wide.putdata([2570, 5140])
    wide.info["transparency"] = 2570
    assert pixels(decode_image(wide)) == [WHITE, (20, 20, 20)]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(file_format, orientation):
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :16], corners[:16, 32:], corners[16:, :16] = RED, GREEN, BLUE
    upright = Image.fromarray(corners)
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpose methods by number
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    image = decode_image(encoded(stored, file_format, exif=exif, **options, lossless=True))
    assert image.size == upright.size
    difference = np.asarray(image).astype(int) - corners
    assert np.abs(difference).max() <= (0 if file_format != "JPEG" else 8)


def test_pil_images_are_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert decode_image(image).size == (4, 2)
    assert decode_image(tmp_path / "turned.png").size == (2, 4)


def test_broken_exif_does_not_hide_the_picture():
    data = encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode_image(data).size == (8, 8)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_stands_for_an_animation_where_one_picture_is_wanted(file_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100, **options)
    assert set(pixels(decode_image(data))) == {RED}


def test_cmyk_jpeg():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.asarray(decode_image(data)).astype(int) - RED).max() <= 3


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", "image data: the file is empty"),
        (b"hello", "image data: not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image data: a PostScript document, expected an image"),
        (np.zeros((2, 2), np.float32), "the image array is float32, expected uint8"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\), expected \(h, w\)"),
        (np.zeros((2, 2, 3, 1), np.uint8), "expected"),
        (np.zeros((0, 2, 3), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 3)), "no pixels: 0 x 3"),
        (Image.new("I", (1, 1), 70000), "range from 70000 to 70000, expected 0 to 65535"),
        (Image.new("I", (1, 1), -1), "range from -1"),
        (Image.new("F", (1, 1), float("nan")), "range from nan"),
        (Image.new("F", (1, 1), 300.0), "float pixel values go up to 300"),
        (None, "the image is NoneType, expected a path, bytes, a PIL image or a uint8 array"),
        (17, "the image is int"),
        ("no\0file", "null"),
    ],
)
def test_what_is_no_image(source, expected):
    with pytest.raises(ImageError, match=expected):
        decode_image(source)


def test_errors_name_the_file(tmp_path):
    missing, empty = tmp_path / "missing.png", tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.png"
    text.write_text("hello")
    for path, expected in (
        (missing, "No such file"),
        (tmp_path, "."),
        (empty, "the file is empty"),
        (text, "not an image in a supported format"),
    ):
        with pytest.raises(ImageError, match=expected) as caught:
            decode_image(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_cut_off_files_are_refused(photo, file_format):
    data = encoded(photo, file_format)
    for length in (1, 20, len(data) // 2, len(data) - 200):
        with pytest.raises(ImageError):
            decode_image(data[:length])


@pytest.mark.parametrize("limit", [48 * 64 - 1, 48 * 64 // 2 - 1], ids=["Pillow warns", "Pillow refuses"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels(photo, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"too many pixels: .*3072.*limit") as caught:
        decode_image(encoded(photo))
    assert "3072" in str(caught.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(encoded(photo)).size == photo.size


def test_a_bomb_is_refused_where_warnings_are_errors(photo, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="too many pixels"):
            decode_image(encoded(photo))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")  # noqa: PTH112
def test_no_file_stays_open(photo, tmp_path):
    def open_files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    good, cut, text = tmp_path / "good.png", tmp_path / "cut.png", tmp_path / "text.png"
    photo.save(good)
    cut.write_bytes(good.read_bytes()[:200])
    text.write_text("hello")
    before = open_files()
    kept = [decode_image(good)]
    for path in (cut, text):
        with pytest.raises(ImageError):
            decode_image(path)
    assert open_files() == before
    assert kept[0].size == photo.size


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,aGVsbG8=",
        "DATA:image/png;charset=x;BASE64,aGVs\n bG8=",
        "data:;base64,aGVsbG8=",
        "data:application/octet-stream,hello",
        "data:image/svg+xml,%68ello",
    ],
)
def test_data_urls(url):
    assert decode_data_url(url) == b"hello"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("image.png", "not a data URL"),
        ("data:image/png;base64", "not a data URL"),
        ("data:text/plain,hello", "has the media type 'text/plain', expected an image"),
        ("data:image/png;base64,aGVsbG8", "base64 is damaged"),
        ("data:image/png;base64,a*b=", "base64 is damaged"),
        ("data:image/png;base64,\u00e4\u00e4\u00e4\u00e4", "base64 is damaged"),
    ],
)
def test_broken_data_urls(url, expected):
    with pytest.raises(ImageError, match=expected):
        decode_data_url(url)


def test_a_data_url_of_an_image(photo):
    url = "data:image/png;base64," + base64.b64encode(encoded(photo)).decode()
    assert decode_image(decode_data_url(url)).size == photo.size


def only_image_errors(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shown, _ = frames(data, 4)
        except ImageError:
            return
    for image in shown:
        assert image.mode == "RGB"
        np.asarray(image)


SIGNATURES = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"BM",
    b"icns",
    b"qoif",
]
SIGNATURES += [b"II*\0", b"MM\0*\0\0\0\x08", b"P6 3 3 255 ", b"P2\n", b"Pf\n", b"\0\0\x01\0\x01\0"]
SIGNATURES += [b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0 ftypavif", b"\0\0\0 ftypheic"]


@given(st.sampled_from(SIGNATURES), st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_with_an_image_error(signature, data):
    only_image_errors(signature + data)


def real_files():
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    files = [encoded(picture, name, exif=exif) for name in ("JPEG", "PNG", "WEBP", "TIFF")]
    files += [encoded(picture, name) for name in ("GIF", "BMP", "PPM", "ICO", "JPEG2000")]
    files += [encoded(picture, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg")]
    files += [encoded(picture.convert("CMYK"), "JPEG"), encoded(picture.convert("LA")), encoded(picture.convert("1"))]
    files += [encoded(picture, name, save_all=True, append_images=[picture]) for name in ("GIF", "WEBP", "PNG")]
    return [*files, grey_png_16([1, 2, 3])]


FILES = real_files()


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_are_refused_with_an_image_error(data, draw):
    damaged = bytearray(data)
    for position, value in draw.draw(
        st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)
    ):
        damaged[position] = value
    only_image_errors(bytes(damaged[: draw.draw(st.integers(0, len(data)))]))
    only_image_errors(bytes(damaged))
