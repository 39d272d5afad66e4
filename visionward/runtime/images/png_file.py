"""The chunks of a PNG file that say how it is shown: those of an animation, and cICP. Pillow reads the rest.

Portable Network Graphics (PNG) Specification, third edition. What contradicts it is refused: viewers differ in what
they then show.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from visionward.errors import ImageError
from visionward.runtime.images.animation import AnimationFrame, Disposal

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DISPOSALS = {0: Disposal.KEEP, 1: Disposal.CLEAR, 2: Disposal.RESTORE}
_SHARED = (b"PLTE", b"tRNS")  # what the pixels of a frame need, beside header and data


@dataclass(frozen=True)
class PngFile:
    """What a PNG file shows.

    Attributes:
        size: (width, height) of the canvas.
        frames: of the animation, in order; empty without one.
        default_image: whether the image that viewers show which know no animation is not one of the frames.
        cicp: the contents of the cICP chunk; empty without one.
    """

    size: tuple[int, int]
    frames: tuple[AnimationFrame, ...]
    default_image: bool
    cicp: bytes


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int
    length: int


@dataclass
class _Data:
    """Where the data chunks of a frame are: from the first one's start to the last one's end."""

    start: int = 0
    end: int = 0

    def add(self, chunk: _Chunk) -> None:
        self.start = self.start or chunk.start
        self.end = chunk.start + chunk.length


@dataclass
class _Reader:
    stream: BinaryIO
    most_frames: int
    header: bytes = b""
    shared: bytes = b""
    cicp: bytes = b""
    announced: int | None = None
    sequence: int = 0
    image: _Data = field(default_factory=_Data)
    image_is_frame: bool = False
    frames: list[tuple[bytes, _Data]] = field(default_factory=list)

    def read(self, chunk: _Chunk) -> None:
        """Note what a chunk says."""
        if chunk.kind == b"IDAT":
            self.image_is_frame = len(self.frames) == 1 if not self.image.end else self.image_is_frame
            self.image.add(chunk)
        elif chunk.kind == b"acTL":
            if self.announced is not None or self.image.end or chunk.length != 8:
                raise _damaged("acTL is repeated, behind the image, or of a wrong length")
            self.announced = int.from_bytes(_content(self.stream, chunk, 4), "big")
        elif chunk.kind == b"fcTL":
            self._control(_content(self.stream, chunk, 26))
        elif chunk.kind == b"fdAT":
            self._number(_content(self.stream, chunk, 4))
            if not self.frames:
                raise _damaged("fdAT comes before fcTL")
            self.frames[-1][1].add(chunk)
        elif not self.image.end:
            self._before_the_image(chunk)

    def _before_the_image(self, chunk: _Chunk) -> None:
        if chunk.kind == b"IHDR":
            self.header = self.header or _content(self.stream, chunk, 13)
        elif chunk.kind == b"cICP":
            self.cicp = _content(self.stream, chunk, 4)
        elif chunk.kind in _SHARED:
            self.shared += _written(chunk.kind, _content(self.stream, chunk, chunk.length))

    def _control(self, content: bytes) -> None:
        if len(self.frames) == self.most_frames:
            raise ImageError(f"the animation has more than {self.most_frames} frames")
        if len(content) < 26:
            raise _damaged("fcTL is cut short")
        self._number(content)
        self.frames.append((content, _Data()))

    def _number(self, content: bytes) -> None:
        if int.from_bytes(content[:4], "big") != self.sequence:
            raise _damaged(f"chunk {self.sequence} of the sequence is missing or misplaced")
        self.sequence += 1

    def file(self) -> PngFile:
        """What the chunks that were read show."""
        if len(self.header) < 13:
            raise ImageError("the PNG file has no header")
        width, height = struct.unpack(">II", self.header[:8])
        if self.announced is None and not self.frames:
            return PngFile((width, height), (), default_image=False, cicp=self.cicp)
        if self.announced != len(self.frames) or not self.frames:
            raise _damaged(f"it has {len(self.frames)} frames and announces {self.announced or 'none'}")
        frames = tuple(self._frame(index, width, height) for index in range(len(self.frames)))
        return PngFile((width, height), frames, default_image=not self.image_is_frame, cicp=self.cicp)

    def _frame(self, index: int, canvas_width: int, canvas_height: int) -> AnimationFrame:
        control, data = self.frames[index]
        width, height, left, top = struct.unpack(">4I", control[4:20])
        if not (0 < width <= canvas_width - left and 0 < height <= canvas_height - top):
            raise _damaged(f"frame {index + 1} is not inside of the picture")
        kind = b"fdAT"
        if index == 0 and self.image_is_frame:
            if (width, height) != (canvas_width, canvas_height) or data.end:
                raise _damaged("the first frame is not the image")
            kind, data = b"IDAT", self.image
        if not data.end:
            raise _damaged(f"frame {index + 1} has no data")
        disposal, blend = _DISPOSALS.get(control[24]), control[25]
        if disposal is None or blend > 1:
            raise _damaged(f"frame {index + 1} is disposed of or blended in an unknown way")
        head = _SIGNATURE + _written(b"IHDR", control[4:12] + self.header[8:]) + self.shared
        file = partial(_file, self.stream, head, kind, data)
        return AnimationFrame((left, top), (width, height), disposal, bool(blend), file)


def read_png(stream: BinaryIO, most_frames: int) -> PngFile:
    """Find the frames of a PNG file; none is decoded.

    Args:
        stream: the file.
        most_frames: to read; a file with more is refused.

    Raises:
        ImageError: there are more frames, or the chunks of the animation are damaged.
    """
    stream.seek(len(_SIGNATURE))
    reader = _Reader(stream, most_frames)
    for chunk in _chunks(stream):
        reader.read(chunk)
    return reader.file()


def _damaged(how: str) -> ImageError:
    return ImageError(f"the animation is damaged: {how}")


def _chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    """The chunks from here to the end of the image; a stream that ends before is left to the decoder."""
    position = stream.tell()
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        chunk = _Chunk(head[4:], position + 8, int.from_bytes(head[:4], "big"))
        yield chunk
        position = chunk.start + chunk.length + 4  # behind the checksum
        stream.seek(position)


def _content(stream: BinaryIO, chunk: _Chunk, size: int) -> bytes:
    stream.seek(chunk.start)
    return stream.read(min(size, chunk.length))


def _written(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _file(stream: BinaryIO, head: bytes, kind: bytes, data: _Data) -> bytes:
    """The PNG file of one frame."""
    stream.seek(data.start - 8)
    parts = [head]
    for chunk in _chunks(stream):
        if chunk.start + chunk.length > data.end:
            break
        if chunk.kind == kind:
            content = _content(stream, chunk, chunk.length)
            _check(stream, kind, content)
            parts.append(_written(b"IDAT", content if kind == b"IDAT" else content[4:]))
    return b"".join([*parts, _written(b"IEND", b"")])


def _check(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    if stream.read(4) != struct.pack(">I", zlib.crc32(kind + content)):
        raise ImageError("a checksum is wrong")
