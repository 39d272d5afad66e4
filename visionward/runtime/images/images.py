"""Reading images as a viewer shows them: every frame, upright, in sRGB, on white or black behind transparency.

The guard must judge what a viewer shows. An image that looks different to the guard than to a person is a hole.

- Transparency is composited on white, as in Transformers (which ignores the transparent colour of an RGB image; Meta's
  reference drops the alpha channel). `pictures` also composites on black.
- EXIF orientation is applied to files and bytes; both references ignore it. PIL images and arrays are not rotated.
- Colours: see `colour`. Greyscale of more than 8 bits: see `rendering`.
- Frames: see `frames`. A PIL image with several frames is refused, because Pillow does not compose the frames of a file
  as browsers do.
- Truncated files are refused, whatever the value of ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``.

Only raster formats are decoded. Pillow would also decode EPS (by starting Ghostscript) and WMF.
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
from visionward.formats.file_type import HEAD_BYTES, file_type
from visionward.formats.regular_file import open_regular
from visionward.runtime.images.frames import Frames, OneFrame, frames_of
from visionward.runtime.images.heif_file import is_heif, open_heif
from visionward.runtime.images.memory_budget import MemoryBudget
from visionward.runtime.images.whole_files import whole_files_only

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]

# HEIF is not among them: see `heif_file`. Pillow supports AVIF from version 11.3 on.
_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
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

# What Pillow's decoders raise on damaged data, besides its own errors (which are OSErrors).
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
    """The first picture of an image, in RGB, on white where it is transparent.

    This is for display. The guard judges all pictures: see `visionward.runtime.images.pictures.Pictures`.

    Args:
        source: a path; the bytes of a file; a PIL image; or a uint8 array (height, width), (height, width, 3) or
            (height, width, 4) with the channels R, G, B, alpha.

    Raises:
        ImageError: the source cannot be read, is not an image, is damaged or truncated, or has more pixels than
            Pillow's ``Image.MAX_IMAGE_PIXELS``. The error names the file.
    """
    with decoding(source), opened(source, MemoryBudget()) as frames:
        return frames.picture(frames.chosen(1)[0]).rendering().whole()


@contextlib.contextmanager
def opened(source: ImageSource, budget: MemoryBudget) -> Iterator[Frames]:
    """Open any image source and give its frames. Use it inside `decoding`.

    Raises:
        ImageError: the source is not an image.
    """
    if isinstance(source, Image.Image):
        if getattr(source, "is_animated", False):
            raise ImageError("a PIL image with several frames: give the file or its bytes, or copy() of one frame")
        yield OneFrame(source)
    elif isinstance(source, np.ndarray):
        yield OneFrame(_from_array(source))
    else:
        with _stream(source) as stream:
            if not stream.read(1):
                raise ImageError("the file is empty")
            stream.seek(0)
            with _image_file(stream) as image:
                yield frames_of(image, stream, budget)


@contextlib.contextmanager
def decoding(source: ImageSource) -> Iterator[None]:
    """Turn everything that decoding an image raises into an ImageError that names it, and refuse truncated files."""
    with _refusals(_name(source)), whole_files_only():
        yield


def decode_data_url(url: str) -> bytes:
    """The bytes in a ``data:`` URL, base64 or percent-encoded. They are not decoded yet.

    Raises:
        ImageError: it is not a data URL, its media type is not an image, or its base64 is damaged.
    """
    scheme, colon, rest = url.partition(":")
    header, comma, body = rest.partition(",")
    if scheme.lower() != "data" or not colon or not comma:
        raise ImageError("not a data URL, expected data:image/<type>;base64,<data>")
    media_type, *parameters = (part.strip().lower() for part in header.split(";"))
    if media_type and not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise ImageError(f"the data URL has the media type {media_type[:80]!r}, expected an image type")
    if "base64" not in parameters:
        return unquote_to_bytes(body)
    try:
        return b64decode("".join(body.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as cause:
        raise ImageError(f"the data URL's base64 is damaged: {cause}") from cause


@contextlib.contextmanager
def _refusals(name: str | None) -> Iterator[None]:
    """Turn everything that a decoder raises into an ImageError that names the image."""
    prefix = "" if name is None else f"{name}: "
    try:
        yield
    except ImageError as cause:
        raise ImageError(f"{prefix}{cause}") from cause
    except UnidentifiedImageError as cause:
        raise ImageError(f"{prefix}not an image in a supported format ({', '.join(_formats())}, HEIF)") from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise ImageError(f"{prefix}too many pixels: {cause}") from cause
    except MemoryError as cause:
        raise ImageError(f"{prefix}not enough memory to decode it") from cause
    except _DECODER_ERRORS as cause:
        raise ImageError(f"{prefix}damaged, truncated, or not an image: {cause or type(cause).__name__}") from cause


def _image_file(stream: BinaryIO) -> Image.Image:
    """Open an image file; nothing is decoded yet."""
    if is_heif(stream):
        return open_heif(stream)
    try:
        return Image.open(stream, formats=_formats())
    except UnidentifiedImageError as cause:
        stream.seek(0)
        found = file_type(stream.read(HEAD_BYTES))
        if found is None or found.endswith(" image"):
            raise
        raise ImageError(f"{found}, expected an image ({', '.join(_formats())}, HEIF)") from cause


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
        raise ImageError(f"the image is {type(source).__name__}, expected a path, bytes, a PIL image or a uint8 array")
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
