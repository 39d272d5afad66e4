"""Colours against the published matrices and curves, in numpy; what is sRGB keeps its bits."""

import io
import struct
import zlib

import icc_profiles as icc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import MemoryBudget, apng, decoding, encoded, frames, opened, png, png_header, png_pixels
from PIL import Image, ImageCms

from visionward.runtime.images.colour import colours_of, matrix_profile
from visionward.runtime.images.images import decode_image

RANDOM = np.random.default_rng(8)
PIXELS = np.concatenate(
    [np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1), RANDOM.integers(0, 256, (1000, 3), dtype=np.uint8)]
)[None]
PICTURE = Image.fromarray(PIXELS)
SRGB_XY8 = (*icc.D65_XY, *np.ravel(icc.SRGB_XY))
P3_XY8 = (*icc.D65_XY, *np.ravel(icc.P3_XY))


def shown(data):
    return np.asarray(decode_image(data))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    ("profile", "primaries", "linear"),
    [
        (icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve()), icc.P3_XY, icc.to_linear),
        (
            icc.rgb_profile(icc.ADOBE_RGB, icc.gamma_curve(icc.ADOBE_GAMMA), 2),
            icc.ADOBE_XY,
            lambda v: v**icc.ADOBE_GAMMA,
        ),
    ],
    ids=["Display P3", "Adobe RGB"],
)
def test_wide_gamuts(profile, primaries, linear, file_format):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(file_format, {})
    data = encoded(PICTURE, file_format, icc_profile=profile, **options)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = icc.in_srgb(stored, primaries, linear)
    assert np.abs(expected - stored).max() > 40  # it matters
    assert np.abs(shown(data) - expected).max() < 1.6


SRGB_PROFILES = {
    "LittleCMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "parametric": icc.rgb_profile(icc.SRGB, icc.srgb_curve()),
    "table of 1024": icc.rgb_profile(icc.SRGB, icc.srgb_table(), 2),
    "table of 64": icc.rgb_profile(icc.SRGB, icc.srgb_table(64), 2),
}


@pytest.mark.parametrize("name", SRGB_PROFILES)
def test_srgb_by_any_maker_keeps_its_bits(name):
    assert np.array_equal(shown(encoded(PICTURE, icc_profile=SRGB_PROFILES[name])), PIXELS)
    grey = PICTURE.convert("L")
    assert np.array_equal(shown(encoded(grey, icc_profile=SRGB_PROFILES[name])), np.asarray(grey.convert("RGB")))


def test_a_table_beside_srgbs_matrix_is_not_overlooked():
    """It is what viewers use."""
    matrix = icc.rgb_profile(icc.SRGB, icc.srgb_curve(), 2)
    assert np.array_equal(shown(encoded(PICTURE, icc_profile=matrix)), PIXELS)
    table = icc.lut_profile(lambda _red, green, _blue: (100 * green, 0, 0), also=icc.SRGB)
    assert not np.array_equal(shown(encoded(PICTURE, icc_profile=table)), PIXELS)


def test_a_gamma_of_2_2_is_not_srgb():
    profile = icc.rgb_profile(icc.SRGB, icc.gamma_curve(2.2))
    assert not np.array_equal(shown(encoded(PICTURE, icc_profile=profile)), PIXELS)


@pytest.mark.parametrize("gamma", [1.0, 1.8])
@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(gamma, mode):
    ramp = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    found = shown(encoded(image, icc_profile=icc.grey_profile(gamma)))
    expected = icc.to_encoded((ramp / 255) ** gamma)[..., None] * 255
    assert np.abs(found - expected).max() < 1.6


def lab_of_inks(c, m, y, k):
    return 100 - 25 * c - 25 * m - 5 * y - 35 * k, -40 * c + 60 * m * (1 - k), 70 * y - 40 * c


def test_cmyk_profiles():
    """At the points of the table, by CIELAB's definition and the Bradford-adapted matrix of sRGB."""
    inks = [[255 * bit for bit in (c, m, y, k)] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    stored = np.array([inks], np.uint8)
    data = encoded(
        Image.frombytes("CMYK", (16, 1), stored.tobytes()), "TIFF", icc_profile=icc.cmyk_profile(lab_of_inks)
    )
    lab = np.array([lab_of_inks(*(value // 255 for value in point)) for point in inks], float)
    f = (lab[:, :1] + 16) / 116 + np.stack([lab[:, 1] / 500, 0 * lab[:, 1], -lab[:, 2] / 200], axis=1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    expected = icc.to_encoded(np.linalg.solve(np.array(icc.SRGB).T, xyz.T).T) * 255
    assert np.abs(shown(data)[0] - expected).max() < 2.1
    plain = encoded(Image.frombytes("CMYK", (16, 1), stored.tobytes()), "TIFF")
    assert np.abs(shown(plain)[0] - expected).max() > 30


def test_a_cmyk_jpeg_with_a_profile():
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain, profiled = (
        shown(encoded(image, "JPEG", quality=100, icc_profile=profile))
        for profile in (None, icc.cmyk_profile(lab_of_inks))
    )
    assert plain[0, 0].tolist() == [0, 255, 255]
    assert np.abs(plain.astype(int) - profiled).max() > 30


def test_transparency_survives():
    rgba = np.concatenate([PIXELS, RANDOM.integers(0, 2, (*PIXELS.shape[:2], 1), dtype=np.uint8) * 255], axis=2)
    profile = icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve())
    found = shown(encoded(Image.fromarray(rgba), icc_profile=profile))
    opaque = rgba[..., 3] == 255
    assert np.array_equal(found[opaque], shown(encoded(PICTURE, icc_profile=profile))[opaque])
    assert (found[~opaque] == 255).all()


def chunks(*colour_chunks, behind=()):
    return png(png_header(len(PIXELS[0]), 1), *colour_chunks, (b"IDAT", png_pixels(PIXELS)), *behind)


def gama(value):
    return b"gAMA", struct.pack(">I", round(value * 100000))


def chrm(chromaticities):
    return b"cHRM", struct.pack(">8I", *(round(float(value) * 100000) for value in chromaticities))


def iccp(profile):
    return b"iCCP", b"name\0\0" + zlib.compress(profile)


@pytest.mark.parametrize("value", [0.00001, 0.02, 0.3, 1.0, 2.5])
def test_gama(value):
    """Down to the 0.02 by which a PNG shows one picture to those who know gAMA and another to those who do not."""
    expected = icc.to_encoded((PIXELS / 255) ** min(1 / value, 1000)) * 255
    assert np.abs(shown(chunks(gama(value))) - expected).max() < 1.1


def test_gama_and_chrm():
    expected = icc.in_srgb(PIXELS, icc.P3_XY, lambda v: v ** (1 / 0.45455))
    assert np.abs(shown(chunks(gama(0.45455), chrm(P3_XY8))) - expected).max() < 1.6


@pytest.mark.parametrize(
    "colour_chunks",
    [
        [gama(0.45455)],
        [gama(0.44)],
        [gama(0.45455), chrm(SRGB_XY8)],
        [chrm(P3_XY8)],
        [(b"sRGB", b"\0"), gama(0.3), chrm(P3_XY8)],
        [iccp(SRGB_PROFILES["parametric"]), gama(0.3)],
    ],
    ids=["gamma of sRGB", "nearly", "both of sRGB", "chromaticities alone", "sRGB chunk", "sRGB profile"],
)
def test_a_png_that_is_srgb_keeps_its_bits(colour_chunks):
    assert np.array_equal(shown(chunks(*colour_chunks)), PIXELS)


def test_what_comes_behind_the_pixels_does_not_count():
    assert np.array_equal(shown(chunks(behind=[gama(0.1)])), PIXELS)
    assert np.array_equal(shown(chunks(behind=[iccp(icc.grey_profile(1.0))])), PIXELS)


def test_a_profile_comes_before_the_srgb_chunk():
    profile = icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve())
    assert np.array_equal(shown(chunks((b"sRGB", b"\0"), iccp(profile))), shown(chunks(iccp(profile))))


@pytest.mark.parametrize(
    "colour_chunks",
    [
        [iccp(b"nonsense")],
        [iccp(icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve())[:200])],
        [iccp(icc.cmyk_profile(lab_of_inks))],
        [iccp(icc.grey_profile(1.8))],
        [(b"iCCP", b"name\0\0not deflated")],
        [gama(0)],
        [gama(1.0), chrm((0, 0, 0, 0, 0, 0, 0, 0))],
        [gama(1.0), chrm((0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5))],
        [gama(1.0), chrm((42949, 42949, 42949, 1, 1, 42949, 0.1, 0.1))],
    ],
)
def test_what_is_no_description_of_colours_is_ignored_and_said(colour_chunks):
    data = chunks(*colour_chunks)
    assert np.array_equal(shown(data), PIXELS)
    with Image.open(io.BytesIO(data)) as image:
        (note,) = colours_of(image.mode, image.info).notes
    assert "ignored" in note


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), st.sampled_from(["RGB", "L"]))
@settings(max_examples=150, deadline=None)
def test_damaged_profiles_never_raise(damage, mode):
    data = bytearray(icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_table(32)))
    for position, value in damage:
        data[position % len(data)] = value
    image = PICTURE.convert(mode)
    image.info["icc_profile"] = bytes(data)
    assert decode_image(image).size == PICTURE.size


@given(st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_no_chromaticities_raise(chromaticities, gamma):
    info = {"gamma": gamma / 100000, "chromaticity": tuple(value / 100000 for value in chromaticities)}
    colours = colours_of("RGB", info)
    assert colours.notes or colours.to_srgb is None or colours.to_srgb(PICTURE).size == PICTURE.size


def test_a_profile_of_ours_is_the_published_one():
    """The colorants that Display P3's profile has, from its chromaticities."""
    data = matrix_profile(P3_XY8, 2.2)
    found = [struct.unpack_from(">3i", data, data.index(b"XYZ ", 200 + 20 * i) + 8) for i in range(4)]
    assert np.abs(np.array(found) / 65536 - [(0.9642, 1, 0.8249), *icc.DISPLAY_P3]).max() < 1e-4


def test_every_frame_has_the_colours_of_the_file():
    drawn = [(np.full((1, 2, 4), (*colour, 255), np.uint8), (0, 0), 0, 0) for colour in ((10, 200, 30), (200, 30, 10))]
    extra = [iccp(icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve()))]
    found, _ = frames(apng((2, 1), drawn, extra=extra))
    expected = icc.in_srgb(np.array([(10, 200, 30), (200, 30, 10)]), icc.P3_XY, icc.to_linear)
    assert np.abs(np.array([image.getpixel((0, 0)) for image in found]) - expected).max() < 1.6


@pytest.mark.parametrize(("code_points", "unusual"), [((1, 13), False), ((12, 13), True), ((9, 16), True)])
def test_cicp_is_named(code_points, unusual):
    data = chunks((b"cICP", bytes((*code_points, 0, 1))))
    with decoding(data), opened(data, MemoryBudget()) as file:
        assert bool(file.notes) == unusual
