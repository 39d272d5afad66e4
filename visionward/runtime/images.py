"""Decoding images as a viewer shows them: RGB, upright, the first frame, transparency on white.

What a viewer shows is what must be judged: an image that looks different to the guard than to a person is a hole.

- Transparency is composited on white (Transformers does so too, but overlooks the colour that an RGB image names
  transparent; Meta's reference drops the alpha channel).
- EXIF orientation is applied to files and bytes (both references ignore it). PIL images and arrays are taken as
  they are.
- 16-bit greyscale is divided by 257, as viewers do; Pillow's own conversion clips everything above 255 to white.
- 32-bit integers are read as 16-bit values if one is above 255 (Pillow 10 decodes 16-bit PNG and PPM files into this
  mode), as 8-bit values otherwise, except in PNG and PPM files, where they are always 16-bit ones.
- Floats are read as 0..1 if none is above 1, as 0..255 otherwise.
- Of an animation the first frame counts; of an APNG with a separate default image, that image.

Only raster formats are decoded. Pillow would also take EPS (and start Ghostscript) or WMF.
"""

import binascii
import contextlib
import os
import struct
import zlib
from base64 import b64decode
from collections.abc import Iterator
from io import BytesIO
from typing import IO, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from visionward.runtime.errors import ImageError
from visionward.runtime.regular_file import open_regular

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]

# AVIF came with Pillow 11.3; HEIF is there if a plugin registered it.
_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "HEIF",
    "ICNS",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "QOI",
    "TIFF",
    "WEBP",
)

# What Pillow's decoders raise on garbage, beside its own errors (which are OSErrors).
_DECODER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    BufferError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(source: ImageSource) -> Image.Image:
    """The image of a file, of a file's bytes, of a PIL image or of an array, in RGB.

    Args:
        source: a path; the bytes of a file; a PIL image; or a uint8 array (height, width), (height, width, 3) or
            (height, width, 4) in the order R, G, B, alpha.

    Raises:
        ImageError: it cannot be read, is no image, is damaged or cut short, or has more pixels than Pillow's
            ``Image.MAX_IMAGE_PIXELS``. The message names the file.
    """
    if isinstance(source, Image.Image):
        with _refusals("the image"):
            return to_rgb(source)
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source))
    if isinstance(source, bytes):
        return _decode(BytesIO(source), "image data")
    if isinstance(source, str | os.PathLike):
        return _decode_file(source)
    raise ImageError(f"an image is a path, bytes, a PIL image or a uint8 array, found {type(source).__name__}")


def decode_data_url(url: str) -> bytes:
    """The bytes that a ``data:`` URL holds, base64 or percent-encoded; they are not yet looked at.

    Raises:
        ImageError: it is no data URL, says that it is no image, or its base64 is damaged.
    """
    scheme, colon, rest = url.partition(":")
    header, comma, body = rest.partition(",")
    if scheme.lower() != "data" or not colon or not comma:
        raise ImageError("not a data URL, expected data:image/<type>;base64,<data>")
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    if media_type and not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise ImageError(f"the data URL holds {media_type[:80]!r}, expected an image type")
    if "base64" not in parameters:
        return unquote_to_bytes(body)
    try:
        return b64decode("".join(body.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as cause:
        raise ImageError(f"the data URL's base64 is damaged: {cause}") from cause


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, transparency composited on white; the image itself if it is RGB already.

    Raises:
        ImageError: it has no pixels, or values of no known range.
    """
    if 0 in image.size:
        raise ImageError(f"the image has no pixels: {image.width} x {image.height}")
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide_values(image)
    if image.has_transparency_data:
        premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        rgba = (image.convert(premultiplied) if premultiplied else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the image."""
    try:
        yield
    except ImageError as cause:
        raise ImageError(f"{name}: {cause}") from cause
    except UnidentifiedImageError as cause:
        raise ImageError(f"{name}: not an image in a format that can be read ({', '.join(_formats())})") from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise ImageError(f"{name}: too many pixels: {cause}") from cause
    except MemoryError as cause:
        raise ImageError(f"{name}: not enough memory to decode it") from cause
    except _DECODER_ERRORS as cause:
        raise ImageError(f"{name}: damaged, cut short, or not an image: {cause or type(cause).__name__}") from cause


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_file(path: str | os.PathLike[str]) -> Image.Image:
    try:
        stream = open_regular(path)
    except OSError as cause:
        raise ImageError(f"{os.fspath(path)}: {cause.strerror or cause}") from cause
    except ValueError as cause:  # a NUL in the name
        raise ImageError(f"{os.fspath(path)!r}: {cause}") from cause
    with stream:
        return _decode(stream, os.fspath(path))


def _decode(stream: IO[bytes], name: str) -> Image.Image:
    with _refusals(name):
        if not stream.read(1):
            raise ImageError("it is empty")
        stream.seek(0)
        return _decode_stream(stream)


def _decode_stream(stream: IO[bytes]) -> Image.Image:
    with Image.open(stream, formats=_formats()) as image:
        _check_pixels(image)
        image.load()
        _check_pixels(image)  # an ICO file's pictures can be larger than its directory says
        upright = _orientation(image)  # after load(): PNG has it behind the pixels, and TIFF is turned by Pillow
        rgb = to_rgb(image)
        return rgb if upright is None else rgb.transpose(upright)


def _check_pixels(image: Image.Image) -> None:
    # Pillow only warns between the limit and twice the limit.
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise ImageError(f"too many pixels: {image.width} x {image.height} is {pixels}, the limit is {limit}")


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except _DECODER_ERRORS:  # viewers show an image with broken EXIF data as it is
        return None
    return _UPRIGHT.get(value) if isinstance(value, int) else None


def _from_wide_values(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float greyscale as RGB, see the module's docstring."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # false for NaN too
        raise ImageError(f"the pixel values go from {low} to {high}, expected 0 to 65535")
    grey: npt.NDArray[np.uint8]
    if image.mode == "F":
        if high > 255:
            raise ImageError(f"the float pixel values go up to {high}, expected 0 to 1 or 0 to 255")
        grey = np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
    elif image.mode != "I" or high > 255 or image.format in {"PNG", "PPM"}:
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        grey = values.astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"the image array is {array.dtype}, expected uint8 in 0..255")
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        raise ImageError(f"the image array has shape {array.shape}, expected (h, w), (h, w, 3) or (h, w, 4)")
    if array.size == 0:
        raise ImageError(f"the image array has no pixels: shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))
