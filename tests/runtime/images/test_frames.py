"""Frames: which are judged, what each shows, and what a file that lies about them comes to."""

import io
import struct

import image_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import apng, encoded, frames, gif, picture, png, png_header, png_pixels, rgba_frames
from PIL import Image, features

from visionward.errors import ImageError
from visionward.runtime.images import frames as frames_module
from visionward.runtime.images.frames import evenly
from visionward.runtime.images.images import decode_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
# Pillow writes wrong offsets into an MPO file of more than two pictures.
COUNTS = {"MPO": 2}
HAS_AVIF = features.check("avif") if "avif" in features.modules else False


def pixels(image):
    return np.asarray(image).reshape(-1, 3).tolist()


@given(total=st.integers(1, 10_000), limit=st.integers(1, 10_000))
def test_which_frames(total, limit):
    chosen = evenly(total, limit)
    assert len(chosen) == len(set(chosen)) == min(total, limit)
    assert chosen[0] == 0
    assert chosen == sorted(chosen)
    if len(chosen) > 1:
        assert chosen[-1] == total - 1
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        pytest.param(
            "AVIF", {"quality": 100, "subsampling": "4:4:4"}, marks=pytest.mark.skipif(not HAS_AVIF, reason="")
        ),
        ("MPO", {"quality": 100, "subsampling": 0}),
    ],
)
def test_every_frame_of_every_format(file_format, options):
    count = COUNTS.get(file_format, 3)
    shown = [picture(seed).quantize(200).convert("RGB").resize((96, 72), 0) for seed in range(count)]
    data = encoded(shown[0], file_format, save_all=True, append_images=shown[1:], **options)
    found, total = frames(data)
    assert total == len(found) == count
    apart = [[np.abs(np.asarray(image, int) - np.asarray(one)).mean() for one in shown] for image in found]
    assert np.argmin(apart, axis=1).tolist() == list(range(count))
    assert np.diag(apart).max() <= (40 if file_format in {"AVIF", "MPO"} else 0)
    some, total = frames(data, 2)
    assert total == count
    assert [image.tobytes() for image in some] == [found[0].tobytes(), found[-1].tobytes()]


def test_pages_have_sizes_orientations_and_profiles_of_their_own():
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    from PIL import ImageCms, TiffImagePlugin  # noqa: PLC0415

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as writer:
        for page, options in ((picture(1, 8, 12), {"icc_profile": b"odd"}), (picture(2, 20, 10), {"exif": turned})):
            page.save(writer, "TIFF", **options)
            writer.newFrame()
        picture(3, 6, 6).save(writer, "TIFF", icc_profile=profile)
        writer.newFrame()
    with (
        image_files.decoding(buffer.getvalue()),
        image_files.opened(buffer.getvalue(), image_files.MemoryBudget()) as f,
    ):
        read = [(p.rendering().size, len(p.colours.notes)) for p in map(f.picture, range(f.total))]
    assert read == [((12, 8), 1), ((20, 10), 0), ((6, 6), 0)]


def icon(*icons):
    """An ICO file of 32-bit PNG pictures."""
    files = [encoded(image.convert("RGBA")) for image in icons]
    data, offset = struct.pack("<HHH", 0, 1, len(icons)), 6 + 16 * len(icons)
    for image, file in zip(icons, files, strict=True):
        data += struct.pack("<BBBBHHII", image.width % 256, image.height % 256, 0, 0, 1, 32, len(file), offset)
        offset += len(file)
    return data + b"".join(files)


def test_every_icon():
    """Viewers choose one by size; two of the same size may differ too."""
    icons = [Image.new("RGB", (side, side), colour) for side, colour in ((16, RED), (48, GREEN), (16, BLUE))]
    found, total = frames(icon(*icons))
    assert total == 3
    assert {(image.size, image.getpixel((3, 3))) for image in found} == {(i.size, i.getpixel((3, 3))) for i in icons}
    assert found[0].size == decode_image(icon(*icons)).size == (48, 48)


def test_every_size_of_icns():
    parts = [(b"ic07", Image.new("RGB", (128, 128), RED)), (b"ic08", Image.new("RGB", (256, 256), BLUE))]
    blocks = b"".join(kind + struct.pack(">I", len(encoded(i)) + 8) + encoded(i) for kind, i in parts)
    found, total = frames(b"icns" + struct.pack(">I", len(blocks) + 8) + blocks)
    assert total == 2
    assert [image.getpixel((0, 0)) for image in found] == [BLUE, RED]


def test_the_default_image_of_an_apng_is_judged_in_addition():
    moving = [(np.full((2, 2, 4), (*colour, 255)), (0, 0), 0, 0) for colour in (RED, GREEN, BLUE)]
    data = apng((2, 2), moving, default=np.full((2, 2, 4), (9, 9, 9, 255)))
    found, total = frames(data, 2)
    assert total == 4
    assert [image.getpixel((0, 0)) for image in found] == [(9, 9, 9), RED, BLUE]
    assert frames(apng((2, 2), moving), 2)[1] == 3
    one = apng((2, 2), moving[:1], default=np.full((2, 2, 4), (9, 9, 9, 255)))
    assert [image.getpixel((0, 0)) for image in frames(one)[0]] == [(9, 9, 9), RED]


# What each frame shows on a canvas of 3 x 1, by the GIF89a specification, section 23, and as browsers do.
@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        # 2 clears to transparent, whatever the background colour
        ([([[1, 1, 1]], (0, 0), 2, None), ([[2]], (0, 0), 0, None)], [[RED] * 3, [GREEN, WHITE, WHITE]]),
        # how a frame is disposed of does not carry over to one that does not say
        (
            [([[1]], (0, 0), 2, None), ([[2]], (1, 0), 0, None), ([[3]], (2, 0), None, None)],
            [[RED, WHITE, WHITE], [WHITE, GREEN, WHITE], [WHITE, GREEN, BLUE]],
        ),
        # 3 restores what was there before
        (
            [([[1, 1, 1]], (0, 0), 1, None), ([[2]], (1, 0), 3, None), ([[3]], (2, 0), 0, None)],
            [[RED] * 3, [RED, GREEN, RED], [RED, RED, BLUE]],
        ),
        # transparent pixels show what is behind
        ([([[1, 1, 1]], (0, 0), 0, None), ([[2, 3, 2]], (0, 0), 0, 3)], [[RED] * 3, [GREEN, RED, GREEN]]),
        # what the first frame leaves open is transparent
        ([([[1]], (1, 0), 0, None), ([[2]], (0, 0), 0, None)], [[WHITE, RED, WHITE], [GREEN, RED, WHITE]]),
        # a later frame that reaches beyond the canvas is cut off there
        ([([[1, 1, 1]], (0, 0), 0, None), ([[2, 2, 2]], (2, 0), 0, None)], [[RED] * 3, [RED, RED, GREEN]]),
        ([([[1, 1, 1]], (0, 0), 0, None), ([[2]], (60000, 9), 2, None)], [[RED] * 3, [RED] * 3]),
    ],
)
def test_a_gif_frame_is_composed_as_browsers_do(drawn, expected):
    found, _ = frames(gif((3, 1), drawn))
    assert [[tuple(pixel) for pixel in pixels(image)] for image in found] == expected


def test_a_single_gif_frame_that_is_smaller_than_the_canvas():
    (image,), total = frames(gif((3, 1), [([[1]], (1, 0), None, None)]))
    assert (total, pixels(image)) == (1, [list(WHITE), list(RED), list(WHITE)])


def solid(colour, width=1, alpha=255):
    return np.full((1, width, 4), (*colour, alpha), np.uint8)


# By the PNG specification, third edition, 11.3.6: dispose_op 0 none, 1 background, 2 previous; blend_op 0
# source, 1 over.
@pytest.mark.parametrize(
    ("drawn", "default", "expected"),
    [
        ([(solid(RED, 2), (0, 0), 1, 0), (solid(BLUE), (0, 0), 0, 0)], None, [[RED, RED], [BLUE, WHITE]]),
        (
            [(solid(RED, 2), (0, 0), 0, 0), (solid(BLUE), (0, 0), 2, 0), (solid(GREEN), (1, 0), 0, 0)],
            None,
            [[RED, RED], [BLUE, RED], [RED, GREEN]],
        ),
        # the first frame of an animation is not drawn over the default image
        ([(solid(BLUE), (1, 0), 0, 1)], solid(RED, 2), [[RED, RED], [WHITE, BLUE]]),
        # source replaces, transparency included; over does not
        ([(solid(RED, 2), (0, 0), 0, 0), (solid(BLUE, alpha=0), (0, 0), 0, 0)], None, [[RED, RED], [WHITE, RED]]),
        ([(solid(RED, 2), (0, 0), 0, 0), (solid(BLUE, alpha=0), (0, 0), 0, 1)], None, [[RED, RED], [RED, RED]]),
        # previous in the first frame is background
        ([(solid(RED, 2), (0, 0), 2, 0), (solid(BLUE), (0, 0), 0, 0)], None, [[RED, RED], [BLUE, WHITE]]),
    ],
)
def test_an_apng_frame_is_composed_as_the_specification_says(drawn, default, expected):
    found, _ = frames(apng((2, 1), drawn, default))
    assert [[tuple(pixel) for pixel in pixels(image)] for image in found] == expected


def test_what_an_apng_without_alpha_clears_is_transparent():
    """Strokes drawn in black on what was cleared are seen on a page, and are not black on black."""
    drawn = [(solid(BLACK, 2)[..., :3], (0, 0), 1, 0), (solid(BLACK)[..., :3], (0, 0), 0, 0)]
    found, _ = frames(apng((2, 1), drawn, colour_type=2))
    assert pixels(found[1]) == [list(BLACK), list(WHITE)]


@pytest.mark.parametrize("disposal", [0, 1])
@pytest.mark.parametrize("blend", [0, 1])
def test_what_pillow_wrote_is_what_is_shown(disposal, blend):
    """Pillow writes only what changes between frames; put together it is the frames again."""
    base = np.asarray(picture(0, channels=4))
    shown = []
    for seed in range(6):
        part = base.copy()
        part[seed : seed + 9, seed : seed + 7] = np.asarray(picture(seed, channels=4))[:9, :7]
        if blend:
            part[..., 3] = 255
        shown.append(Image.fromarray(part))
    data = encoded(shown[0], save_all=True, append_images=shown[1:], disposal=disposal, blend=blend)
    # A pixel without opacity has no colour.
    found, wanted = rgba_frames(data), np.stack([np.asarray(image) for image in shown])
    visible = wanted[..., 3:] > 0
    assert np.array_equal(found[..., 3], wanted[..., 3])
    assert np.array_equal(found * visible, wanted * visible)


@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_gifs_that_pillow_wrote(disposal):
    random = np.random.default_rng(3)
    shown = [Image.fromarray(random.integers(0, 4, (9, 11), dtype=np.uint8) * 80).convert("RGB") for _ in range(6)]
    data = encoded(shown[0], "GIF", save_all=True, append_images=shown[1:], disposal=disposal)
    found, _ = frames(data)
    assert [image.tobytes() for image in found] == [image.tobytes() for image in shown]


FRAME = (solid(RED, 2), (0, 0), 0, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (apng((2, 1), [FRAME] * 2, announced=2**31 - 1), "has 2 frames, but acTL says 2147483647"),
        (apng((2, 1), [FRAME] * 3, announced=2), "has 3 frames, but acTL says 2"),
        (apng((2, 1), [FRAME] * 3, announced=0), "has 3 frames, but acTL says none"),
        (apng((2, 1), [], announced=4, default=solid(RED, 2)), "has 0 frames, but acTL says 4"),
        (apng((2, 1), [FRAME, (solid(RED), (2, 0), 0, 0)]), "frame 2 is not within the canvas"),
        (apng((2, 1), [FRAME, (solid(RED), (2**32 - 1, 0), 0, 0)]), "frame 2 is not within"),
        (apng((2, 1), [FRAME, (solid(RED), (0, 0), 7, 0)]), "unknown disposal or blend operation"),
        (apng((2, 1), [(solid(RED), (0, 0), 0, 0)] * 2), "the first frame is not the default image"),
        (apng((2, 1), [FRAME] * 2, extra=[(b"acTL", struct.pack(">II", 2, 0))]), "acTL is repeated"),
        (
            png(png_header(2, 1, 6), (b"IDAT", png_pixels(solid(RED, 2))), (b"acTL", bytes(8))),
            "acTL is repeated, comes after",
        ),
        (png(png_header(2, 1, 6), (b"IDAT", png_pixels(solid(RED, 2))), (b"fcTL", bytes(26))), "acTL says none"),
        (png(png_header(2, 1, 6), (b"IDAT", png_pixels(solid(RED, 2))), (b"fdAT", bytes(9))), "fdAT comes before fcTL"),
        (
            apng((2, 1), [FRAME] * 3).replace(b"fdAT\0\0\0\2", b"fdAT\0\0\0\3"),
            r"sequence number \d is missing or misplaced",
        ),
    ],
)
def test_an_apng_that_contradicts_itself(data, expected):
    with pytest.raises(ImageError, match=expected):
        frames(data)


def test_a_frame_with_a_wrong_checksum():
    data = bytearray(apng((2, 1), [FRAME] * 2))
    data[data.index(b"fdAT") + 8] ^= 1
    with pytest.raises(ImageError):
        frames(bytes(data))


def animations():
    shown = [picture(seed, 40, 50) for seed in range(3)]
    made = {
        name: encoded(shown[0], name, save_all=True, append_images=shown[1 : COUNTS.get(name, 3)], **options)
        for name, options in (
            ("GIF", {}),
            ("PNG", {}),
            ("WEBP", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("MPO", {}),
        )
    }
    return made | ({"AVIF": encoded(shown[0], "AVIF", save_all=True, append_images=shown[1:])} if HAS_AVIF else {})


ANIMATIONS = animations()


@pytest.mark.parametrize("name", sorted(ANIMATIONS))
@settings(max_examples=25, deadline=None)
@given(draw=st.data())
def test_a_cut_animation_is_refused_or_whole_up_to_there(name, draw):
    """A GIF that ends between two frames is one with fewer frames; otherwise what is missing is an error."""
    data = ANIMATIONS[name]
    whole, total = frames(data)
    assert total == COUNTS.get(name, 3)
    cut = data[: draw.draw(st.integers(len(data) // 3, len(data) - 20))]
    try:
        found, total = frames(cut)
    except ImageError:
        return
    assert total < 3 if name == "GIF" else False
    assert all(np.array_equal(image, expected) for image, expected in zip(found, whole, strict=False))


@pytest.mark.parametrize("name", sorted(ANIMATIONS))
def test_a_damaged_later_frame_is_never_skipped(name):
    data = bytearray(ANIMATIONS[name])
    at = len(data) * 2 // 3
    data[at : at + 200] = bytes(200)
    try:
        _, total = frames(bytes(data))
    except ImageError:
        return
    assert total == COUNTS.get(name, 3)


def test_counting_and_decoding_are_bounded(monkeypatch):
    one = ([[1, 2, 3]], (0, 0), 0, None)
    monkeypatch.setattr(frames_module, "MAX_FRAMES", 5)
    for data in (
        gif((3, 1), [one] * 6),
        apng((2, 1), [FRAME] * 6),
        encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1)] * 5),
        encoded(picture(0), "WEBP", save_all=True, append_images=[picture(seed) for seed in range(1, 6)]),
        icon(*[Image.new("RGB", (16, 16))] * 6),
    ):
        with pytest.raises(ImageError, match=r"more than 5 frames|6 icons"):
            frames(data)
    monkeypatch.setattr(frames_module, "MAX_PIXELS", 2 * 5 * 2 - 1)
    for data in (gif((3, 1), [one] * 5), apng((2, 1), [FRAME] * 5)):
        with pytest.raises(ImageError, match="pixels to decode"):
            frames(data)
        assert len(frames(data, 1)[0]) == 1
    webp = encoded(picture(0), "WEBP", save_all=True, append_images=[picture(1)])
    with pytest.raises(ImageError, match="pixels to decode"):
        frames(webp)


def test_pages_that_go_in_circles_come_to_an_end():
    data = bytearray(encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1)]))
    first = struct.unpack_from("<I", data, 4)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0])[0]
    struct.pack_into("<I", data, second + 2 + 12 * struct.unpack_from("<H", data, second)[0], first)
    assert frames(bytes(data))[1] == 2


def test_a_pil_image_with_several_frames_is_refused():
    """It has a file behind it; which frames are meant is not for the guard to guess."""
    data = gif((3, 1), [([[1, 1, 1]], (0, 0), 0, None), ([[2, 2, 2]], (0, 0), 0, None)])
    with Image.open(io.BytesIO(data)) as image:
        with pytest.raises(ImageError, match=r"several frames: give the file or its bytes, or copy\(\)"):
            decode_image(image)
        assert decode_image(image.copy()).getpixel((0, 0)) == RED


def test_only_exif_turns_a_picture():
    """XMP says so too, but browsers do not ask it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'
    image = Image.new("RGB", (8, 4))
    assert decode_image(encoded(image, "JPEG", xmp=xmp)).size == (8, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(image, "JPEG", xmp=xmp, exif=exif)).size == (4, 8)
