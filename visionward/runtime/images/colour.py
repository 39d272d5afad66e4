"""Colours as a viewer shows them: an ICC profile, or PNG's gAMA and cHRM, to sRGB.

What is sRGB already is left as it is, bit for bit: no profile, PNG's sRGB chunk, and every profile that changes no
colour by more than rounding does, whoever made it. The rest follows what browsers do:

- A profile is applied by LittleCMS, relative to its white, without black point compensation. It is for the kind of
  colours that the picture has; a grey picture may have an RGB profile. Any other, and one that is damaged, is ignored,
  with a note.
- PNG's cHRM counts only together with gAMA. A gAMA within 5 % of 1/2.2 stands for sRGB's curve, as in libpng.
- An ICC profile comes before PNG's sRGB chunk, and both before gAMA and cHRM (PNG specification, third edition, 4.3).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

# Byte levels by which profiles that are sRGB in all but their rounding change a colour.
_ROUNDING = 2

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GREY_MODES = ("1", "L", "LA", "La", "F")

_SRGB_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.05
_LARGEST_EXPONENT = 1000.0  # leaves nothing but black and white
# White, red, green and blue of sRGB as (x, y), IEC 61966-2-1.
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_CHROMATICITY_TOLERANCE = 0.002

# Linear Bradford adaptation (ICC.1:2022, annex E), and the white that profiles are relative to.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


# Makes an image without transparency one in sRGB.
ToSrgb: TypeAlias = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, eq=False)
class Colours:
    """How the colours of a picture become sRGB.

    Attributes:
        to_srgb: None where they are sRGB already, or nothing else is known.
        notes: what a reader of the verdict should know.
    """

    to_srgb: ToSrgb | None = None
    notes: tuple[str, ...] = ()


def colours_of(mode: str, info: dict[Any, Any]) -> Colours:
    """The colours of an image by its mode and by what Pillow read from the file; never raises for what is damaged."""
    if "icc_profile" in info:
        return _by_profile(mode, info["icc_profile"])
    if "srgb" in info or "gamma" not in info:
        return Colours()
    return _by_gamma(info["gamma"], info.get("chromaticity", _SRGB_CHROMATICITIES))


def _by_profile(mode: str, data: object) -> Colours:
    if not isinstance(data, bytes) or not data:
        return _ignored("it cannot be read")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        space = profile.profile.xcolor_space
        kind = _SPACES.get(space)
        if kind is not None and kind in _kinds(mode):
            return Colours(_conversion(profile, kind))
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as cause:
        return _ignored(cause)
    return _ignored(f"it is for {space.strip() or 'unknown'} colours")


def _ignored(reason: object) -> Colours:
    return Colours(notes=(f"the picture's colour profile was ignored, as viewers do: {reason}.",))


def _kinds(mode: str) -> tuple[str, ...]:
    if mode == "CMYK":
        return ("CMYK",)
    return ("L", "RGB") if mode in _GREY_MODES or mode.startswith("I") else ("RGB",)


def _by_gamma(gamma: float, chromaticities: tuple[float, ...]) -> Colours:
    same_curve = abs(gamma - _SRGB_GAMMA) <= _GAMMA_TOLERANCE * _SRGB_GAMMA
    difference = np.abs(np.subtract(chromaticities, _SRGB_CHROMATICITIES)).max()
    if same_curve and difference <= _CHROMATICITY_TOLERANCE:
        return Colours()
    try:
        data = matrix_profile(chromaticities, min(1 / gamma, _LARGEST_EXPONENT))
        return Colours(_conversion(ImageCms.ImageCmsProfile(BytesIO(data)), "RGB"))
    except (ArithmeticError, OSError, ValueError, struct.error, np.linalg.LinAlgError, ImageCms.PyCMSError):
        return Colours(notes=("the picture's gAMA and cHRM are no colours: they were ignored.",))


def _conversion(profile: ImageCms.ImageCmsProfile, kind: str) -> ToSrgb | None:
    """The conversion from a profile for ``RGB``, ``L`` or ``CMYK``; None if it is sRGB's own."""
    # Greys go through a table of 256: LittleCMS's own shortcut for them is off by 9 levels in the dark.
    flags = ImageCms.Flags.NOOPTIMIZE if kind == "L" else ImageCms.Flags.NONE
    target, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    transform = ImageCms.buildTransform(profile, target, kind, "RGB", intent, flags)

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image if image.mode == kind else image.convert(kind), transform)
        if converted is None:  # only where the result goes into the image itself
            raise ValueError("the colours could not be converted")
        return converted

    # Of a table the probe would see some entries only; curves and a matrix it sees whole.
    if kind == "CMYK" or any(as_input for as_input, *_ in (profile.profile.clut or {}).values()):
        return convert
    probe = _probe(kind)
    before, after = np.asarray(probe.convert("RGB"), np.int16), np.asarray(convert(probe), np.int16)
    if np.abs(after - before).max() <= _ROUNDING:
        return None
    table = after[0].T.ravel().tolist()
    return (lambda image: image.convert("L").convert("RGB").point(table)) if kind == "L" else convert


def _probe(kind: str) -> Image.Image:
    """Every grey, and for RGB a grid of 18 levels a channel."""
    ramp = np.arange(256, dtype=np.uint8)
    if kind == "L":
        return Image.fromarray(ramp[None])
    grid = np.stack(np.meshgrid(*[ramp[::15]] * 3), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([np.stack([ramp] * 3, axis=-1), grid])[None])


def matrix_profile(chromaticities: tuple[float, ...], exponent: float) -> bytes:
    """An ICC profile (version 4) of three primaries and one power curve.

    Args:
        chromaticities: x and y of white, red, green and blue.
        exponent: from encoded to linear values.

    Raises:
        ValueError: the primaries span no colours.
        LinAlgError: the same.
        ArithmeticError: the same.
        struct.error: a number is out of a profile's range.
    """
    xyz = [(x / y, 1.0, (1 - x - y) / y) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)]
    white, primaries = np.array(xyz[0]), np.array(xyz[1:]).T
    scaled = primaries * np.linalg.solve(primaries, white)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    columns = adapt @ scaled
    if not np.isfinite(columns).all() or min(np.linalg.det(columns), white.min()) <= 0:
        raise ValueError("the primaries span no colours")
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
    """s15Fixed16 numbers."""
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))
