"""Image files written by hand, chunk by chunk, and reading all pictures of one."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from visionward.runtime.images.images import decoding, opened
from visionward.runtime.images.memory_budget import MemoryBudget


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def frames(source, limit=100):
    """Every frame that is judged, in RGB on white, and how many there are."""
    with decoding(source), opened(source, MemoryBudget()) as opened_frames:
        shown = [opened_frames.picture(index).rendering().whole().copy() for index in opened_frames.chosen(limit)]
        return shown, opened_frames.total


def rgba_frames(source):
    """Every frame of an animation, RGBA (frames, height, width, 4)."""
    with decoding(source), opened(source, MemoryBudget()) as opened_frames:
        return np.stack(
            [np.asarray(opened_frames.picture(index).image.convert("RGBA")) for index in range(opened_frames.total)]
        )


def png_chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks) + png_chunk(b"IEND")


def png_header(width, height, colour_type=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)


def png_pixels(array):
    """The contents of IDAT for a uint8 array (height, width, channels)."""
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(array, np.uint8)))


def apng(size, frame_list, default=None, announced=None, colour_type=6, extra=()):
    """An APNG; a frame is (array, (left, top), disposal, blend)."""
    chunks = [png_header(*size, colour_type), *extra]
    chunks.append((b"acTL", struct.pack(">II", len(frame_list) if announced is None else announced, 0)))
    if default is not None:
        chunks.append((b"IDAT", png_pixels(default)))
    number = 0
    for index, (array, position, disposal, blend) in enumerate(frame_list):
        height, width = np.shape(array)[:2]
        control = struct.pack(">IIIIIHHBB", number, width, height, *position, 1, 10, disposal, blend)
        chunks.append((b"fcTL", control))
        number += 1
        if index == 0 and default is None:
            chunks.append((b"IDAT", png_pixels(array)))
        else:
            chunks.append((b"fdAT", struct.pack(">I", number) + png_pixels(array)))
            number += 1
    return png(*chunks)


PALETTE = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]


def gif(size, frame_list, palette=PALETTE, background=0):
    """A GIF; a frame is (array of palette indices 0 to 3, (left, top), disposal, transparent index or None).

    LZW without compression: every code has three bits, and the table is cleared before it grows.
    """
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80 | 1, background, 0)
    data += b"".join(bytes(colour) for colour in palette)
    for array, position, disposal, transparent in frame_list:
        if (disposal, transparent) != (None, None):
            flags = (disposal or 0) << 2 | (transparent is not None)
            data += b"!\xf9\x04" + struct.pack("<BHBB", flags, 10, transparent or 0, 0)
        height, width = np.shape(array)
        data += b"," + struct.pack("<HHHHB", *position, width, height, 0) + b"\x02"
        codes = [code for value in np.ravel(array) for code in (4, int(value))] + [5]
        bits = "".join(f"{code:03b}"[::-1] for code in codes)
        packed = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
        for at in range(0, len(packed), 255):
            data += bytes([len(packed[at : at + 255])]) + packed[at : at + 255]
        data += b"\0"
    return data + b";"


def picture(seed, height=24, width=32, channels=3):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))
