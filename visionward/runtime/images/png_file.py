"""The chunks of a PNG file for an animation and for cICP. Pillow reads the others.

Portable Network Graphics (PNG) Specification, third edition. An animation that violates it is refused, because viewers
differ in what they show of it.
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
_SHARED = (b"PLTE", b"tRNS")  # needed to decode a frame, besides header and data


@dataclass(frozen=True)
class PngFile:
    """The contents of a PNG file.

    Attributes:
        size: (width, height) of the canvas.
        frames: the frames of the animation in order; empty without an animation.
        default_image: whether the default image, which viewers without APNG support show, is not one of the frames.
        cicp: the contents of the cICP chunk; empty without one.
    """

    size: tuple[int, int]
    frames: tuple[AnimationFrame, ...]
    default_image: bool
    cicp: bytes


@dataclass(frozen=True)
class _Chunk:
    type: bytes
    start: int
    length: int


@dataclass
class _Data:
    """The range of a frame's data chunks: from the start of the first to the end of the last."""

    start: int = 0
    end: int = 0

    def add(self, chunk: _Chunk) -> None:
        self.start = self.start or chunk.start
        self.end = chunk.start + chunk.length


@dataclass
class _Reader:
    stream: BinaryIO
    max_frames: int
    header: bytes = b""
    shared: bytes = b""
    cicp: bytes = b""
    announced: int | None = None
    sequence: int = 0
    image: _Data = field(default_factory=_Data)
    image_is_frame: bool = False
    frames: list[tuple[bytes, _Data]] = field(default_factory=list)

    def read(self, chunk: _Chunk) -> None:
        """Process a chunk."""
        if chunk.type == b"IDAT":
            self.image_is_frame = len(self.frames) == 1 if not self.image.end else self.image_is_frame
            self.image.add(chunk)
        elif chunk.type == b"acTL":
            if self.announced is not None or self.image.end or chunk.length != 8:
                raise _damaged("acTL is repeated, comes after the image, or has a wrong length")
            self.announced = int.from_bytes(_content(self.stream, chunk, 4), "big")
        elif chunk.type == b"fcTL":
            self._control(_content(self.stream, chunk, 26))
        elif chunk.type == b"fdAT":
            self._number(_content(self.stream, chunk, 4))
            if not self.frames:
                raise _damaged("fdAT comes before fcTL")
            self.frames[-1][1].add(chunk)
        elif not self.image.end:
            self._before_the_image(chunk)

    def _before_the_image(self, chunk: _Chunk) -> None:
        if chunk.type == b"IHDR":
            self.header = self.header or _content(self.stream, chunk, 13)
        elif chunk.type == b"cICP":
            self.cicp = _content(self.stream, chunk, 4)
        elif chunk.type in _SHARED:
            self.shared += _written(chunk.type, _content(self.stream, chunk, chunk.length))

    def _control(self, content: bytes) -> None:
        if len(self.frames) == self.max_frames:
            raise ImageError(f"the animation has more than {self.max_frames} frames")
        if len(content) < 26:
            raise _damaged("fcTL is truncated")
        self._number(content)
        self.frames.append((content, _Data()))

    def _number(self, content: bytes) -> None:
        if int.from_bytes(content[:4], "big") != self.sequence:
            raise _damaged(f"sequence number {self.sequence} is missing or misplaced")
        self.sequence += 1

    def file(self) -> PngFile:
        """The result, after all chunks were processed."""
        if len(self.header) < 13:
            raise ImageError("the PNG file has no header")
        width, height = struct.unpack(">II", self.header[:8])
        if self.announced is None and not self.frames:
            return PngFile((width, height), (), default_image=False, cicp=self.cicp)
        if self.announced != len(self.frames) or not self.frames:
            raise _damaged(f"it has {len(self.frames)} frames, but acTL says {self.announced or 'none'}")
        frames = tuple(self._frame(index, width, height) for index in range(len(self.frames)))
        return PngFile((width, height), frames, default_image=not self.image_is_frame, cicp=self.cicp)

    def _frame(self, index: int, canvas_width: int, canvas_height: int) -> AnimationFrame:
        control, data = self.frames[index]
        width, height, left, top = struct.unpack(">4I", control[4:20])
        if not (0 < width <= canvas_width - left and 0 < height <= canvas_height - top):
            raise _damaged(f"frame {index + 1} is not within the canvas")
        data_type = b"fdAT"
        if index == 0 and self.image_is_frame:
            if (width, height) != (canvas_width, canvas_height) or data.end:
                raise _damaged("the first frame is not the default image")
            data_type, data = b"IDAT", self.image
        if not data.end:
            raise _damaged(f"frame {index + 1} has no data")
        disposal, blend = _DISPOSALS.get(control[24]), control[25]
        if disposal is None or blend > 1:
            raise _damaged(f"frame {index + 1} has an unknown disposal or blend operation")
        head = _SIGNATURE + _written(b"IHDR", control[4:12] + self.header[8:]) + self.shared
        file = partial(_file, self.stream, head, data_type, data)
        return AnimationFrame((left, top), (width, height), disposal, bool(blend), file)


def read_png(stream: BinaryIO, max_frames: int) -> PngFile:
    """Find the frames of a PNG file. None is decoded.

    Args:
        stream: the file.
        max_frames: a file with more frames is refused.

    Raises:
        ImageError: there are more frames, or the chunks of the animation are damaged.
    """
    stream.seek(len(_SIGNATURE))
    reader = _Reader(stream, max_frames)
    for chunk in _chunks(stream):
        reader.read(chunk)
    return reader.file()


def _damaged(how: str) -> ImageError:
    return ImageError(f"the animation is damaged: {how}")


def _chunks(stream: BinaryIO) -> Iterator[_Chunk]:
    """The chunks from the current position to IEND. Reporting a truncated file is left to the decoder."""
    position = stream.tell()
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        chunk = _Chunk(head[4:], position + 8, int.from_bytes(head[:4], "big"))
        yield chunk
        position = chunk.start + chunk.length + 4  # skips the checksum
        stream.seek(position)


def _content(stream: BinaryIO, chunk: _Chunk, size: int) -> bytes:
    stream.seek(chunk.start)
    return stream.read(min(size, chunk.length))


def _written(chunk_type: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(chunk_type + content)
    return struct.pack(">I", len(content)) + chunk_type + content + struct.pack(">I", checksum)


def _file(stream: BinaryIO, head: bytes, data_type: bytes, data: _Data) -> bytes:
    """A PNG file with one frame only."""
    stream.seek(data.start - 8)
    parts = [head]
    for chunk in _chunks(stream):
        if chunk.start + chunk.length > data.end:
            break
        if chunk.type == data_type:
            content = _content(stream, chunk, chunk.length)
            _check(stream, data_type, content)
            parts.append(_written(b"IDAT", content if data_type == b"IDAT" else content[4:]))
    return b"".join([*parts, _written(b"IEND", b"")])


def _check(stream: BinaryIO, chunk_type: bytes, content: bytes) -> None:
    if stream.read(4) != struct.pack(">I", zlib.crc32(chunk_type + content)):
        raise _damaged("wrong checksum of a data chunk")
