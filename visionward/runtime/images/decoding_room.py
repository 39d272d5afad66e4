"""How much memory decoding an image may take, and how much it takes, by its format."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from visionward.errors import ImageError
from visionward.machine.process_memory import anonymous_bytes
from visionward.machine.processor import read_memory

# Bytes a pixel: the most that was measured for any kind of picture of a format while it was decoded, converted and cut
# into tiles. Pillow keeps RGB in four bytes, and what is converted is there twice. Progressive JPEG keeps coefficients,
# WebP and AVIF planes and copies, JPEG 2000 integers, and an animation its canvas three times.
_BYTES_PER_PIXEL = {
    **dict.fromkeys(("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "ICO", "QOI"), 8),
    **dict.fromkeys(("progressive", "TIFF", "PPM"), 12),
    **dict.fromkeys(("WEBP", "animation"), 20),
}
_LARGEST = 26
# What no image is refused for: the tower takes more for its tiles.
_NEGLIGIBLE = 64 * 2**20


class DecodingRoom:
    """The memory that decoding has to keep to.

    Args:
        limit: bytes that the process may take; a container's limit counts too, and the smaller of the two. What the
            process maps from files does not count: the system can drop it.
    """

    def __init__(self, limit: int | None = None) -> None:
        limits = [value for value in (limit, read_memory().limit) if value is not None]
        self._limit = min(limits, default=None)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Under a limit one image is decoded at a time, so that each is measured against what the others left."""
        if self._limit is None:
            yield
            return
        with self._lock:
            yield

    def check(self, image: Image.Image, size: tuple[int, int] | None = None, kind: str | None = None) -> None:
        """Refuse an image that has not been decoded yet and would take too much.

        Args:
            image: that was opened.
            size: (width, height) where it is not the image's.
            kind: of its decoding, where it is not its format that counts.

        Raises:
            ImageError: it has more pixels than Pillow's limit, or decoding it takes more memory than is left.
        """
        width, height = size or image.size
        pixels, most = width * height, Image.MAX_IMAGE_PIXELS
        # Pillow only warns between the limit and twice the limit.
        if most is not None and pixels > most:
            raise ImageError(f"too many pixels: {width} x {height} is {pixels}, the limit is {most}")
        if self._limit is None:
            return
        if kind is None:
            kind = "progressive" if image.info.get("progressive") else image.format
        needed = pixels * _BYTES_PER_PIXEL.get(kind or "", _LARGEST)
        left = max(self._limit - (anonymous_bytes() or 0), 0)
        if needed > max(left, _NEGLIGIBLE):
            raise ImageError(
                f"decoding {width} x {height} pixels takes some {_mib(needed)}, and of the memory limit of "
                f"{_mib(self._limit)} {_mib(left)} are left: give a smaller image or raise the limit"
            )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
