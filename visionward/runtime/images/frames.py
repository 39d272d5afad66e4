"""The frames of an image file: frames of an animation, pages of a document, or icons of several sizes.

These are the frames of GIF, APNG, WebP and AVIF animations, the pages of TIFF files, the pictures of MPO and HEIF
files, and the icons of ICO and ICNS files, which viewers choose by size. Viewers without APNG support show the default
image of an APNG, so it is judged in addition to the animation. Pictures that viewers do not show by themselves are
ignored: EXIF thumbnails, TIFF SubIFDs, the gain map of an Ultra HDR JPEG, auxiliary images of a HEIF file, and data
after the end of a file.

The work is bounded: a file with more than `MAX_FRAMES` frames is refused, and so is an animation for which more than
`MAX_PIXELS` pixels would have to be decoded.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Protocol

from PIL import ExifTags, Image

from visionward.errors import ImageError
from visionward.runtime.images.animation import AnimationFrame, Canvas
from visionward.runtime.images.colour import Colours, code_points_note, colours_of
from visionward.runtime.images.gif_file import read_gif
from visionward.runtime.images.memory_budget import MemoryBudget
from visionward.runtime.images.png_file import read_png
from visionward.runtime.images.rendering import BLACK, WHITE, Rendering, is_transparent, to_rgba

MAX_FRAMES = 10_000
MAX_PIXELS = 2**31  # half a minute of decoding

# Formats whose images Pillow or its plugin has already made upright.
_UPRIGHT_FORMATS = ("TIFF", "HEIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN_EXIF = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error)


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded frame.

    Attributes:
        image: the pixels as stored.
        colours: how to convert its colours.
        upright: how to make it upright.
    """

    image: Image.Image
    colours: Colours
    upright: Image.Transpose | None = None

    def rendering(self, background: int = WHITE) -> Rendering:
        """The picture as a viewer shows it.

        Raises:
            ImageError: the image has no pixels, or values outside the known ranges.
        """
        return Rendering.of(self.image, background, self.upright, self.colours.to_srgb)

    def renderings(self) -> list[Rendering]:
        """The picture on white and, if it is transparent, on black, because the viewer's background is unknown.

        Raises:
            ImageError: the image has no pixels, or values outside the known ranges.
        """
        return [self.rendering(one) for one in ((WHITE, BLACK) if is_transparent(self.image) else (WHITE,))]


class Frames(Protocol):
    """The frames of an image.

    Attributes:
        total: the number of frames.
        notes: what a reader of the verdict should know.
    """

    total: int
    notes: tuple[str, ...]

    def chosen(self, limit: int) -> list[int]:
        """The indices of at most ``limit`` frames to judge: the first, the last, and evenly spaced ones between."""

    def picture(self, index: int) -> Picture:
        """Decode a frame. Each index must be larger than the one before.

        Raises:
            ImageError: the frame is damaged or too large. Pillow's own errors are not converted.
        """


def evenly(total: int, limit: int) -> list[int]:
    """At most ``limit`` of the indices 0 to ``total`` - 1: the first, the last, and evenly spaced ones between."""
    if total <= limit:
        return list(range(total))
    if limit == 1:
        return [0]
    return [index * (total - 1) // (limit - 1) for index in range(limit)]


class OneFrame:
    """An image that was given as a PIL image or array. It is not rotated."""

    def __init__(self, image: Image.Image) -> None:
        self.total = 1
        self.notes: tuple[str, ...] = ()
        self._image = image

    def chosen(self, limit: int) -> list[int]:  # noqa: ARG002, D102
        return [0]

    def picture(self, index: int) -> Picture:  # noqa: ARG002, D102
        self._image.load()
        return Picture(self._image, colours_of(self._image.mode, self._image.info))


def frames_of(image: Image.Image, stream: BinaryIO, budget: MemoryBudget) -> Frames:
    """The frames of an image file that Pillow has opened but not loaded.

    Raises:
        ImageError: there are too many frames, the file is damaged, or the image is too large. Pillow's own errors are
            not converted.
    """
    read = _READERS.get(image.format or "")
    if read is None:
        return _Pages(image, _count(image), budget)
    position = stream.tell()
    frames = read(image, stream, budget)
    stream.seek(position)
    return frames


def _gif(image: Image.Image, stream: BinaryIO, budget: MemoryBudget) -> Frames:
    gif = read_gif(stream, MAX_FRAMES)
    first = gif.frames[0]
    if len(gif.frames) == 1 and first.position == (0, 0) and first.size == gif.size:
        return _Pages(image, 1, budget)
    return _Animation(image, gif.size, gif.frames, budget)


def _png(image: Image.Image, stream: BinaryIO, budget: MemoryBudget) -> Frames:
    png = read_png(stream, MAX_FRAMES)
    notes = code_points_note(*png.cicp[:2]) if len(png.cicp) == 4 else ()
    if len(png.frames) > 1 or png.default_image:
        return _Animation(image, png.size, png.frames, budget, default_image=png.default_image, notes=notes)
    return _Pages(image, 1, budget, notes)


def _avif(image: Image.Image, stream: BinaryIO, budget: MemoryBudget) -> Frames:
    return _Pages(image, _count(image), budget, _nclx_note(stream))


def _ico(image: Image.Image, _stream: BinaryIO, budget: MemoryBudget) -> Frames:
    icons: Any = image
    return _Icons(icons.ico.frame, range(len(icons.ico.entry)), budget)


def _icns(image: Image.Image, _stream: BinaryIO, budget: MemoryBudget) -> Frames:
    icons: Any = image
    return _Icons(icons.icns.getimage, sorted(icons.icns.itersizes(), reverse=True), budget)


_READERS = {"GIF": _gif, "PNG": _png, "AVIF": _avif, "ICO": _ico, "ICNS": _icns}


class _Animation:
    """The composed frames of a GIF or APNG file."""

    def __init__(
        self,
        image: Image.Image,
        size: tuple[int, int],
        frames: Sequence[AnimationFrame],
        budget: MemoryBudget,
        *,
        default_image: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        budget.check(image, size, codec="animation")
        self.total, self.notes = len(frames) + default_image, notes
        self._image, self._size, self._frames, self._budget = image, size, frames, budget
        self._ahead = int(default_image)
        self._colours = colours_of(image.mode, image.info)
        self._canvas = Canvas(size, frames, self._decode)

    def chosen(self, limit: int) -> list[int]:
        indices = evenly(len(self._frames), limit)
        pixels = sum(frame.pixels for frame in self._frames[: indices[-1] + 1])
        _check_work(pixels + (indices[-1] + 1) * self._size[0] * self._size[1])
        return [*range(self._ahead), *(self._ahead + index for index in indices)]

    def picture(self, index: int) -> Picture:
        if index < self._ahead:
            self._image.load()
            return Picture(self._image, self._colours, _upright(self._image))
        return Picture(self._canvas.show(index - self._ahead), self._colours, _upright(self._image))

    def _decode(self, data: bytes) -> Image.Image:
        with Image.open(BytesIO(data), formats=(str(self._image.format),)) as alone:
            self._budget.check(alone)
            return to_rgba(alone)


class _Pages:
    """The frames of a file in which Pillow can seek, or the only image of a file."""

    def __init__(self, image: Image.Image, total: int, budget: MemoryBudget, notes: tuple[str, ...] = ()) -> None:
        if total > MAX_FRAMES:
            raise ImageError(f"the file has more than {MAX_FRAMES} frames")
        self.total, self.notes = total, notes
        self._image, self._budget = image, budget
        self._first = image.tell()  # the primary image of a HEIF file need not be the first

    def chosen(self, limit: int) -> list[int]:
        indices = evenly(self.total, limit)
        if self._image.format in {"AVIF", "WEBP"}:  # each frame depends on the ones before
            _check_work((indices[-1] + 1) * self._image.width * self._image.height)
        return sorted({self._first, *indices})

    def picture(self, index: int) -> Picture:
        image = self._image
        if index != image.tell():
            if image.format in {"MPO", "TIFF"}:  # Pillow keeps the profile of the frame before
                image.info.pop("icc_profile", None)
            image.seek(index)
        self._budget.check(image)
        colours = colours_of(image.mode, image.info)  # before load(), which would add PNG chunks after the image
        image.load()
        return Picture(image, colours, _upright(image))


class _Icons:
    """The icons of an ICO or ICNS file, largest first."""

    def __init__(self, read: Callable[[Any], Image.Image], keys: Sequence[Any], budget: MemoryBudget) -> None:
        if not keys or len(keys) > MAX_FRAMES:
            raise ImageError(f"the file has {len(keys)} icons, expected 1 to {MAX_FRAMES}")
        self.total = len(keys)
        self.notes: tuple[str, ...] = ()
        self._read, self._keys, self._budget = read, keys, budget

    def chosen(self, limit: int) -> list[int]:
        return evenly(self.total, limit)

    def picture(self, index: int) -> Picture:
        icon = self._read(self._keys[index])
        self._budget.check(icon)  # the size in the directory may be smaller
        colours = colours_of(icon.mode, icon.info)
        icon.load()
        return Picture(icon, colours)


def _count(image: Image.Image) -> int:
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    # The pages of a TIFF file are a linked list.
    for index in range(1, MAX_FRAMES + 2):
        try:
            image.seek(index)
        except EOFError:
            image.seek(0)
            return index
    return MAX_FRAMES + 1


def _check_work(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise ImageError(
            f"the animation has {pixels:,} pixels to decode up to the last frame to judge, the limit is {MAX_PIXELS:,}"
        )


def _upright(image: Image.Image) -> Image.Transpose | None:
    """How to make a loaded image upright, by its EXIF data.

    Image.getexif() would also use XMP and PNG text, which browsers do not.
    """
    data = image.info.get("exif")
    if not data or image.format in _UPRIGHT_FORMATS:
        return None
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(ExifTags.Base.Orientation)
    except _BROKEN_EXIF:  # viewers ignore damaged EXIF data
        return None
    return _UPRIGHT.get(value) if isinstance(value, int) else None


def _nclx_note(stream: BinaryIO) -> tuple[str, ...]:
    """A note about the code points in the colour box of an AVIF file, which is near its start."""
    stream.seek(0)
    head = stream.read(2**16)
    at = head.find(b"colrnclx")
    numbers = head[at + 8 : at + 12]
    return code_points_note(*struct.unpack(">HH", numbers)) if at >= 0 and len(numbers) == 4 else ()
