"""Converting colours to sRGB as viewers do, by an ICC profile or by PNG's gAMA and cHRM.

Colours that are sRGB already stay unchanged, bit for bit: without a profile, with PNG's sRGB chunk, and with any
profile that changes no colour by more than rounding does. Other colours are converted as browsers convert them:

- LittleCMS applies the profile with relative colorimetric intent, without black point compensation. The profile must be
  for the colour space of the picture, except that a grey picture may have an RGB profile. Any other profile, and a
  damaged one, is ignored with a note.
- PNG's cHRM is used only together with gAMA. A gAMA within 5 % of 1/2.2 means sRGB's curve, as in libpng.
- An ICC profile has precedence over PNG's sRGB chunk, and both over gAMA and cHRM (PNG specification, third edition,
  4.3).
- Coding-independent code points (PNG's cICP, nclx in AVIF and HEIF) are not applied. A note names them unless they are
  close to sRGB.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

# A profile that changes colours by no more byte levels than this is sRGB up to rounding.
_ROUNDING = 2

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GREY_MODES = ("1", "L", "LA", "La", "F")

_SRGB_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.05
_MAX_EXPONENT = 1000.0  # leaves only black and white
# White, red, green and blue of sRGB as (x, y), IEC 61966-2-1.
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CHROMATICITY_TOLERANCE = 0.002

# Linear Bradford adaptation (ICC.1:2022, annex E), and the white point of the profile connection space.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])

# ITU-T H.273 code points close to sRGB: primaries of BT.709, unspecified, BT.470BG and BT.601; the transfer functions
# that go with them, and sRGB's own.
_USUAL_PRIMARIES = (1, 2, 5, 6, 7)
_USUAL_TRANSFERS = (1, 2, 4, 5, 6, 13, 14, 15)

# Converts an image without transparency to sRGB.
ToSrgb: TypeAlias = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, eq=False)
class Colours:
    """How to convert the colours of a picture to sRGB.

    Attributes:
        to_srgb: the conversion; None if the colours are sRGB or nothing is known about them.
        notes: what a reader of the verdict should know.
    """

    to_srgb: ToSrgb | None = None
    notes: tuple[str, ...] = ()


def colours_of(mode: str, info: dict[Any, Any]) -> Colours:
    """The colours of an image by its mode and Pillow's ``info``. Damaged data never raises an error."""
    if "icc_profile" in info:
        return _by_profile(mode, info["icc_profile"])
    nclx = info.get("nclx_profile")  # from pillow-heif
    if isinstance(nclx, dict):
        return Colours(notes=code_points_note(nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2)))
    if "srgb" in info or "gamma" not in info:
        return Colours()
    return _by_gamma(info["gamma"], info.get("chromaticity", _SRGB_CHROMATICITIES))


def code_points_note(primaries: int, transfer: int) -> tuple[str, ...]:
    """A note about H.273 code points, which are not applied; empty if they are close to sRGB."""
    if primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS:
        return ()
    numbers = f"H.273 primaries {primaries}, transfer {transfer}"
    return (f"the picture has wide-gamut or high-dynamic-range colours ({numbers}), which were read as sRGB.",)


def _by_profile(mode: str, data: object) -> Colours:
    if not isinstance(data, bytes) or not data:
        return _ignored("it cannot be read")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        space = profile.profile.xcolor_space
        profile_mode = _SPACES.get(space)
        if profile_mode is not None and profile_mode in _profile_modes(mode):
            return Colours(_conversion(profile, profile_mode))
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as cause:
        return _ignored(cause)
    return _ignored(f"it is for the colour space {space.strip() or 'unknown'}")


def _ignored(reason: object) -> Colours:
    return Colours(notes=(f"the picture's colour profile was ignored, as by viewers: {reason}.",))


def _profile_modes(mode: str) -> tuple[str, ...]:
    """The modes that a profile for a picture of some mode may be for."""
    if mode == "CMYK":
        return ("CMYK",)
    return ("L", "RGB") if mode in _GREY_MODES or mode.startswith("I") else ("RGB",)


def _by_gamma(gamma: float, chromaticities: tuple[float, ...]) -> Colours:
    same_curve = abs(gamma - _SRGB_GAMMA) <= _GAMMA_TOLERANCE * _SRGB_GAMMA
    difference = np.abs(np.subtract(chromaticities, _SRGB_CHROMATICITIES)).max()
    if same_curve and difference <= _CHROMATICITY_TOLERANCE:
        return Colours()
    try:
        data = matrix_profile(chromaticities, min(1 / gamma, _MAX_EXPONENT))
        return Colours(_conversion(ImageCms.ImageCmsProfile(BytesIO(data)), "RGB"))
    except (ArithmeticError, OSError, ValueError, struct.error, np.linalg.LinAlgError, ImageCms.PyCMSError):
        return Colours(notes=("the picture's gAMA and cHRM are not valid: they were ignored.",))


def _conversion(profile: ImageCms.ImageCmsProfile, mode: str) -> ToSrgb | None:
    """The conversion from a profile for ``RGB``, ``L`` or ``CMYK``; None if the profile is sRGB."""
    # Greys are converted by a table of 256 values: LittleCMS's optimization for them is off by 9 levels in dark tones.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    target, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(profile, target, mode, "RGB", intent, flags)

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
        if converted is None:  # only for a conversion in place
            raise ValueError("the colours could not be converted")
        return converted

    # The probe covers curves and a matrix completely, but only some entries of a lookup table.
    if mode == "CMYK" or any(as_input for as_input, *_ in (profile.profile.clut or {}).values()):
        return convert
    probe = _probe(mode)
    before, after = np.asarray(probe.convert("RGB"), np.int16), np.asarray(convert(probe), np.int16)
    if np.abs(after - before).max() <= _ROUNDING:
        return None
    table = after[0].T.ravel().tolist()
    return (lambda image: image.convert("L").convert("RGB").point(table)) if mode == "L" else convert


def _probe(mode: str) -> Image.Image:
    """Every grey, and for RGB also a grid of 18 levels per channel."""
    ramp = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(ramp[None])
    grid = np.stack(np.meshgrid(*[ramp[::15]] * 3), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([np.stack([ramp] * 3, axis=-1), grid])[None])


def matrix_profile(chromaticities: tuple[float, ...], exponent: float) -> bytes:
    """An ICC profile (version 4) with three primaries and one power curve.

    Args:
        chromaticities: x and y of white, red, green and blue.
        exponent: of the curve from encoded to linear values.

    Raises:
        ValueError: the primaries span no colour space.
        LinAlgError: the same.
        ArithmeticError: the same.
        struct.error: a number is outside the range of an ICC profile.
    """
    xyz = [(x / y, 1.0, (1 - x - y) / y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)]
    white, primaries = np.array(xyz[0]), np.array(xyz[1:]).T
    scaled = primaries * np.linalg.solve(primaries, white)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    columns = adapt @ scaled
    if not np.isfinite(columns).all() or min(np.linalg.det(columns), white.min()) <= 0:
        raise ValueError("the primaries span no colour space")
    tags = {
        b"wtpt": _xyz(_D50),
        b"rXYZ": _xyz(columns[:, 0]),
        b"gXYZ": _xyz(columns[:, 1]),
        b"bXYZ": _xyz(columns[:, 2]),
    }
    curve = b"para" + bytes(8) + struct.pack(">i", round(exponent * 65536))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)

    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _numbers(_D50) + bytes(48)
    return header + table + body


def _xyz(values: npt.NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(values)


def _numbers(values: npt.NDArray[np.float64]) -> bytes:
    """Encode numbers as s15Fixed16."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))
