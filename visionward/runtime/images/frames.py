"""The frames of an image file: what it shows one after another, page by page, or in another size.

Frames are those of GIF, APNG, WebP and AVIF animations, the pages of TIFF, the pictures of MPO and HEIF, and the icons
of ICO and ICNS, which viewers choose by size. The image that viewers show which know no APNG is judged too, in addition
to the animation. Pictures that no viewer shows by itself are not looked at: EXIF thumbnails, TIFF's SubIFDs, the gain
map of an Ultra HDR JPEG, whatever follows the end of a file.

Work is bounded: a file with more than `MOST_FRAMES` frames, or with more than `MOST_PIXELS` pixels to go through, is
refused.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Protocol

from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images.animation import AnimationFrame, Canvas
from visionward.runtime.images.colour import Colours, colours_of
from visionward.runtime.images.decoding_room import DecodingRoom
from visionward.runtime.images.gif_file import read_gif
from visionward.runtime.images.png_file import read_png
from visionward.runtime.images.rendering import BLACK, WHITE, Rendering, is_transparent, to_rgba

MOST_FRAMES = 10_000
MOST_PIXELS = 2**31  # half a minute of decoding

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
_BROKEN_EXIF = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error)
# BT.709, unspecified, BT.470BG, BT.601; and the curves that go with them, and sRGB's.
_USUAL_PRIMARIES = (1, 2, 5, 6, 7)
_USUAL_TRANSFERS = (1, 2, 4, 5, 6, 13, 14, 15)


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame, decoded.

    Attributes:
        image: as it is stored.
        colours: its own.
        upright: what turns it upright.
    """

    image: Image.Image
    colours: Colours
    upright: Image.Transpose | None = None

    def rendering(self, background: int = WHITE) -> Rendering:
        """How a viewer shows it.

        Raises:
            ImageError: it has no pixels, or values of no known range.
        """
        return Rendering.of(self.image, background, self.upright, self.colours.to_srgb)

    def renderings(self) -> list[Rendering]:
        """On white, and where it is transparent on black: nobody knows what a viewer puts behind it.

        Raises:
            ImageError: it has no pixels, or values of no known range.
        """
        return [self.rendering(one) for one in ((WHITE, BLACK) if is_transparent(self.image) else (WHITE,))]


class Frames(Protocol):
    """The frames of an image.

    Attributes:
        total: how many there are.
        notes: what a reader of the verdict should know.
    """

    total: int
    notes: tuple[str, ...]

    def chosen(self, limit: int) -> list[int]:
        """The frames to judge, in order: the first, the last, and as many evenly between as make ``limit``."""

    def picture(self, index: int) -> Picture:
        """A frame. Indices may only grow.

        Raises:
            ImageError: it is damaged or too large. What Pillow raises comes through.
        """


def evenly(total: int, limit: int) -> list[int]:
    """Indices of ``limit`` of ``total`` things: the first, the last, and evenly between."""
    if total <= limit:
        return list(range(total))
    if limit == 1:
        return [0]
    return [index * (total - 1) // (limit - 1) for index in range(limit)]


class OneFrame:
    """An image that was handed in decoded: it is taken as it is, not turned."""

    def __init__(self, image: Image.Image) -> None:
        self.total = 1
        self.notes: tuple[str, ...] = ()
        self._image = image

    def chosen(self, limit: int) -> list[int]:  # noqa: ARG002, D102
        return [0]

    def picture(self, index: int) -> Picture:  # noqa: ARG002, D102
        self._image.load()
        return Picture(self._image, colours_of(self._image.mode, self._image.info))


def frames_of(image: Image.Image, stream: BinaryIO, room: DecodingRoom) -> Frames:
    """The frames of an image file that Pillow has opened and not yet loaded.

    Raises:
        ImageError: there are too many, the file is damaged, or the image too large. What Pillow raises comes through.
    """
    read = _READERS.get(image.format or "")
    if read is None:
        return _Pages(image, _count(image), room)
    position = stream.tell()
    frames = read(image, stream, room)
    stream.seek(position)
    return frames


def _gif(image: Image.Image, stream: BinaryIO, room: DecodingRoom) -> Frames:
    gif = read_gif(stream, MOST_FRAMES)
    first = gif.frames[0]
    if len(gif.frames) == 1 and first.position == (0, 0) and first.size == gif.size:
        return _Pages(image, 1, room)
    return _Animation(image, gif.size, gif.frames, room)


def _png(image: Image.Image, stream: BinaryIO, room: DecodingRoom) -> Frames:
    png = read_png(stream, MOST_FRAMES)
    notes = _unapplied(*png.cicp[:2]) if len(png.cicp) == 4 else ()
    if len(png.frames) > 1 or png.default_image:
        return _Animation(image, png.size, png.frames, room, default_image=png.default_image, notes=notes)
    return _Pages(image, 1, room, notes)


def _coded(image: Image.Image, stream: BinaryIO, room: DecodingRoom) -> Frames:
    return _Pages(image, _count(image), room, _nclx_note(stream))


def _ico(image: Image.Image, _stream: BinaryIO, room: DecodingRoom) -> Frames:
    icons: Any = image
    return _Icons(icons.ico.frame, range(len(icons.ico.entry)), room)


def _icns(image: Image.Image, _stream: BinaryIO, room: DecodingRoom) -> Frames:
    icons: Any = image
    return _Icons(icons.icns.getimage, sorted(icons.icns.itersizes(), reverse=True), room)


_READERS = {"GIF": _gif, "PNG": _png, "AVIF": _coded, "HEIF": _coded, "ICO": _ico, "ICNS": _icns}


class _Animation:
    """The frames of a GIF or APNG file, composed."""

    def __init__(
        self,
        image: Image.Image,
        size: tuple[int, int],
        frames: Sequence[AnimationFrame],
        room: DecodingRoom,
        *,
        default_image: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        room.check(image, size, kind="animation")
        self.total, self.notes = len(frames) + default_image, notes
        self._image, self._size, self._frames, self._room = image, size, frames, room
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
            self._room.check(alone)
            return to_rgba(alone)


class _Pages:
    """The frames of a file in which Pillow seeks, and the image of one that has no others."""

    def __init__(self, image: Image.Image, total: int, room: DecodingRoom, notes: tuple[str, ...] = ()) -> None:
        if total > MOST_FRAMES:
            raise ImageError(f"the file has more than {MOST_FRAMES} frames")
        self.total, self.notes = total, notes
        self._image, self._room = image, room
        self._first = image.tell()  # HEIF may begin with another than the first

    def chosen(self, limit: int) -> list[int]:
        indices = evenly(self.total, limit)
        if self._image.format in {"AVIF", "WEBP"}:  # frames that build on each other
            _check_work((indices[-1] + 1) * self._image.width * self._image.height)
        return sorted({self._first, *indices})

    def picture(self, index: int) -> Picture:
        image = self._image
        if index != image.tell():
            if image.format in {"MPO", "TIFF"}:  # each has a profile of its own or none, but Pillow keeps the last one
                image.info.pop("icc_profile", None)
            image.seek(index)
        self._room.check(image)
        colours = colours_of(image.mode, image.info)  # before load(): PNG chunks behind the image do not count
        image.load()
        return Picture(image, colours, _upright(image))


class _Icons:
    """The icons of an ICO or ICNS file, the largest first."""

    def __init__(self, read: Callable[[Any], Image.Image], keys: Sequence[Any], room: DecodingRoom) -> None:
        if not keys or len(keys) > MOST_FRAMES:
            raise ImageError(f"the file has {len(keys)} icons, expected 1 to {MOST_FRAMES}")
        self.total = len(keys)
        self.notes: tuple[str, ...] = ()
        self._read, self._keys, self._room = read, keys, room

    def chosen(self, limit: int) -> list[int]:
        return evenly(self.total, limit)

    def picture(self, index: int) -> Picture:
        icon = self._read(self._keys[index])
        self._room.check(icon)  # the directory may have said less
        colours = colours_of(icon.mode, icon.info)
        icon.load()
        return Picture(icon, colours)


def _count(image: Image.Image) -> int:
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    # TIFF's pages are a list, which only following it can count.
    for index in range(1, MOST_FRAMES + 2):
        try:
            image.seek(index)
        except EOFError:
            image.seek(0)
            return index
    return MOST_FRAMES + 1


def _check_work(pixels: int) -> None:
    if pixels > MOST_PIXELS:
        raise ImageError(
            f"the animation has {pixels:,} pixels to go through up to the last frame to judge, "
            f"the limit is {MOST_PIXELS:,}"
        )


def _upright(image: Image.Image) -> Image.Transpose | None:
    """What turns a loaded image upright by its EXIF data. Pillow has turned TIFF files already.

    Image.getexif() would also believe what XMP and PNG text say, which browsers do not.
    """
    data = image.info.get("exif")
    if not data or image.format == "TIFF":
        return None
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(_ORIENTATION_TAG)
    except _BROKEN_EXIF:  # viewers show an image with broken EXIF data as it is
        return None
    return _UPRIGHT.get(value) if isinstance(value, int) else None


def _nclx_note(stream: BinaryIO) -> tuple[str, ...]:
    """A note where an AVIF or HEIF file says by numbers, in its first bytes, that its colours are unusual."""
    stream.seek(0)
    head = stream.read(2**16)
    at = head.find(b"colrnclx")
    numbers = head[at + 8 : at + 12]
    return _unapplied(*struct.unpack(">HH", numbers)) if at >= 0 and len(numbers) == 4 else ()


def _unapplied(primaries: int, transfer: int) -> tuple[str, ...]:
    """A note for coding-independent code points (ITU-T H.273) that are not nearly sRGB's: nothing here applies them."""
    if primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS:
        return ()
    numbers = f"H.273 primaries {primaries}, transfer {transfer}"
    return (f"the picture's colours ({numbers}: wide, or high dynamic range) were read as sRGB.",)
