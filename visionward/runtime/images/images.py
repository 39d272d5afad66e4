"""Reading images as a viewer shows them: every frame, upright, in sRGB, behind transparency white or black.

What a viewer shows is what must be judged: an image that looks different to the guard than to a person is a hole.

- Transparency is composited on white, as Transformers does (which overlooks the colour that an RGB image names
  transparent; Meta's reference drops the alpha channel). `pictures` looks at black, too.
- EXIF orientation is applied to files and bytes (both references ignore it). PIL images and arrays are not turned.
- Colours: see `colour`. Greyscale of more than 8 bits: see `rendering`.
- Frames: see `frames`. A PIL image that has several is refused: what it would show next is the
  file's, and composing it is not what Pillow does as browsers do.
- Files that are cut short are refused, whatever ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` says.

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
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from visionward.errors import ImageError
from visionward.formats.regular_file import open_regular
from visionward.runtime.images.decoding_room import DecodingRoom
from visionward.runtime.images.frames import Frames, OneFrame, frames_of
from visionward.runtime.images.whole_files import whole_files_only

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


def decode_image(source: ImageSource) -> Image.Image:
    """The first picture that an image shows, in RGB, on white where it is transparent.

    For showing or describing an image. What is judged are all pictures: `visionward.runtime.images.pictures.Pictures`.

    Args:
        source: a path; the bytes of a file; a PIL image; or a uint8 array (height, width), (height, width, 3) or
            (height, width, 4) in the order R, G, B, alpha.

    Raises:
        ImageError: it cannot be read, is no image, is damaged or cut short, or has more pixels than Pillow's
            ``Image.MAX_IMAGE_PIXELS``. The message names the file.
    """
    with decoding(source), opened(source, DecodingRoom()) as frames:
        return frames.picture(frames.chosen(1)[0]).rendering().whole()


@contextlib.contextmanager
def opened(source: ImageSource, room: DecodingRoom) -> Iterator[Frames]:
    """The frames of an image of any kind, while it is open. Use it inside `decoding`.

    Raises:
        ImageError: it is no image.
    """
    if isinstance(source, Image.Image):
        if getattr(source, "is_animated", False):
            raise ImageError("a PIL image with several frames: give the file or its bytes, or a copy() of one frame")
        yield OneFrame(source)
    elif isinstance(source, np.ndarray):
        yield OneFrame(_from_array(source))
    else:
        with _stream(source) as stream:
            if not stream.read(1):
                raise ImageError("it is empty")
            stream.seek(0)
            with Image.open(stream, formats=_formats()) as image:
                yield frames_of(image, stream, room)


@contextlib.contextmanager
def decoding(source: ImageSource) -> Iterator[None]:
    """Turn whatever decoding an image raises into an ImageError that names it, and let no cut file pass."""
    with _refusals(_name(source)), whole_files_only():
        yield


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


@contextlib.contextmanager
def _refusals(name: str | None) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the image."""
    prefix = "" if name is None else f"{name}: "
    try:
        yield
    except ImageError as cause:
        raise ImageError(f"{prefix}{cause}") from cause
    except UnidentifiedImageError as cause:
        raise ImageError(f"{prefix}not an image in a format that can be read ({', '.join(_formats())})") from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise ImageError(f"{prefix}too many pixels: {cause}") from cause
    except MemoryError as cause:
        raise ImageError(f"{prefix}not enough memory to decode it") from cause
    except _DECODER_ERRORS as cause:
        raise ImageError(f"{prefix}damaged, cut short, or not an image: {cause or type(cause).__name__}") from cause


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _name(source: ImageSource) -> str | None:
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return repr(name) if "\0" in name else name
    if isinstance(source, bytes):
        return "image data"
    return "the image" if isinstance(source, Image.Image) else None


def _stream(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(f"an image is a path, bytes, a PIL image or a uint8 array, found {type(source).__name__}")
    try:
        return open_regular(source)
    except OSError as cause:
        raise ImageError(cause.strerror or str(cause)) from cause


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(f"the image array is {array.dtype}, expected uint8 in 0..255")
    if array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        raise ImageError(f"the image array has shape {array.shape}, expected (h, w), (h, w, 3) or (h, w, 4)")
    if array.size == 0:
        raise ImageError(f"the image array has no pixels: shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))
