"""How much memory decoding an image may take, and how much it takes in each format."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from visionward.errors import ImageError
from visionward.machine.process_memory import anonymous_bytes
from visionward.machine.processor import read_memory
from visionward.quantities import size_text

# Bytes per pixel: the maximum measured for any kind of picture of a format while it was decoded, converted and cut into
# tiles. Pillow keeps RGB in four bytes, and conversions make a copy. Progressive JPEG keeps coefficients, WebP and AVIF
# planes and copies, JPEG 2000 integers, HEIF with 10 bits and alpha wide planes, and an animation three canvases.
_BYTES_PER_PIXEL = {
    **dict.fromkeys(("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "ICO", "QOI"), 8),
    **dict.fromkeys(("progressive", "TIFF", "PPM"), 12),
    **dict.fromkeys(("WEBP", "animation"), 20),
}
_MAX_BYTES_PER_PIXEL = 26
# An image that takes no more than this is never refused: the tower takes more for its tiles.
_NEGLIGIBLE = 64 * 2**20


class MemoryBudget:
    """The memory that decoding may use.

    Args:
        limit: bytes that the process may take. A container's limit applies too; the smaller one counts. Memory that the
            process maps from files does not count, because the system can drop it.
    """

    def __init__(self, limit: int | None = None) -> None:
        limits = [value for value in (limit, read_memory().limit) if value is not None]
        self._limit = min(limits, default=None)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """If there is a limit, decode one image at a time, so that each is measured against what the others left."""
        if self._limit is None:
            yield
            return
        with self._lock:
            yield

    def check(self, image: Image.Image, size: tuple[int, int] | None = None, codec: str | None = None) -> None:
        """Refuse an image that would take too much memory. Call it before the image is decoded.

        Args:
            image: the opened image.
            size: (width, height) if it differs from the image's.
            codec: how it is decoded, if this differs from its format: ``animation``.

        Raises:
            ImageError: the image has more pixels than Pillow's limit, or decoding it takes more memory than is left.
        """
        width, height = size or image.size
        pixels, max_pixels = width * height, Image.MAX_IMAGE_PIXELS
        # Pillow only warns between the limit and twice the limit.
        if max_pixels is not None and pixels > max_pixels:
            raise ImageError(f"too many pixels: {width} x {height} is {pixels}, the limit is {max_pixels}")
        if self._limit is None:
            return
        if codec is None:
            codec = "progressive" if image.info.get("progressive") else image.format
        needed = pixels * _BYTES_PER_PIXEL.get(codec or "", _MAX_BYTES_PER_PIXEL)
        left = max(self._limit - (anonymous_bytes() or 0), 0)
        if needed > max(left, _NEGLIGIBLE):
            raise ImageError(
                f"decoding {width} x {height} pixels takes about {size_text(needed)}, but {size_text(left)} of the "
                f"memory limit of {size_text(self._limit)} are left: give a smaller image or raise the limit"
            )
