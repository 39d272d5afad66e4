"""The frames of a GIF file, by the GIF89a specification, and as in browsers where the specification is silent."""

import struct
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from visionward.errors import ImageError
from visionward.runtime.images.animation import AnimationFrame, Disposal

_TRAILER, _EXTENSION, _IMAGE, _GRAPHIC_CONTROL = b";", b"!", b",", b"\xf9"
_PADDING = b"\0"  # some encoders write it after a frame
_HAS_TABLE, _TABLE_SIZE = 0x80, 0x07
_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE, 4: Disposal.RESTORE}  # some encoders write 4 instead of 3


@dataclass(frozen=True)
class GifFile:
    """The contents of a GIF file.

    Attributes:
        size: (width, height) of the canvas: that of the logical screen, extended by the first frame.
        frames: in order.
    """

    size: tuple[int, int]
    frames: tuple[AnimationFrame, ...]


@dataclass(frozen=True)
class _Control:
    """A graphic control extension. It applies to the next image only."""

    content: bytes = b""

    @property
    def disposal(self) -> Disposal:
        return _DISPOSALS.get(self.content[0] >> 2 & 7, Disposal.KEEP) if self.content else Disposal.KEEP


def read_gif(stream: BinaryIO, max_frames: int) -> GifFile:
    """Find the frames of a GIF file. None is decoded.

    Args:
        stream: the file.
        max_frames: a file with more frames is refused.

    Raises:
        ImageError: there are more frames or none, the file ends within a frame, or there is an unknown block.
    """
    stream.seek(0)
    header = stream.read(13)
    if len(header) < 13:
        raise ImageError("the GIF file is truncated")
    size = struct.unpack("<HH", header[6:10])
    table = _table(stream, header[10])
    frames: list[AnimationFrame] = []
    control = _Control()
    while (block := stream.read(1)) not in (b"", _TRAILER):
        if block == _EXTENSION:
            label, content = stream.read(1), _sub_blocks(stream, keep=True)
            if label == _GRAPHIC_CONTROL and len(content) >= 5:
                control = _Control(content[1:5])
        elif block == _IMAGE:
            if len(frames) == max_frames:
                raise ImageError(f"the animation has more than {max_frames} frames")
            frames.append(_frame(stream, header, table, control))
            control = _Control()
        elif block != _PADDING:  # some viewers stop at an unknown block, others search for the next known one
            raise ImageError(f"the GIF file is damaged: unknown block type 0x{block[0]:02X}")
    if not frames:
        raise ImageError("the GIF file has no frames")
    first = frames[0]
    extent = (first.position[0] + first.size[0], first.position[1] + first.size[1])
    return GifFile((max(size[0], extent[0]), max(size[1], extent[1])), tuple(frames))


def _frame(stream: BinaryIO, header: bytes, table: bytes, control: _Control) -> AnimationFrame:
    descriptor = stream.read(9)
    if len(descriptor) < 9:
        raise ImageError("the GIF file ends within a frame")
    left, top, width, height, flags = struct.unpack("<HHHHB", descriptor)
    start = stream.tell()
    _table(stream, flags)
    if len(stream.read(1)) < 1:
        raise ImageError("the GIF file ends within a frame")
    _sub_blocks(stream, keep=False)
    alone = header[:6] + struct.pack("<HH", width, height) + header[10:] + table
    if control.content:
        alone += _EXTENSION + _GRAPHIC_CONTROL + bytes([4]) + control.content + b"\0"
    alone += _IMAGE + struct.pack("<HHHHB", 0, 0, width, height, flags)
    file = partial(_file, stream, alone, start, stream.tell())
    return AnimationFrame((left, top), (width, height), control.disposal, True, file)


def _file(stream: BinaryIO, head: bytes, start: int, end: int) -> bytes:
    stream.seek(start)
    return head + stream.read(end - start) + _TRAILER


def _table(stream: BinaryIO, flags: int) -> bytes:
    return stream.read(3 << (flags & _TABLE_SIZE) + 1) if flags & _HAS_TABLE else b""


def _sub_blocks(stream: BinaryIO, *, keep: bool) -> bytes:
    """Read data blocks up to the terminator and return the first with its length byte if ``keep`` is true."""
    first = b""
    while (length := stream.read(1)) not in (b"", b"\0"):
        content = stream.read(length[0])
        if keep and not first:
            first = length + content
    return first
