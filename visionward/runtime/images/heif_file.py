"""Opening HEIF files (HEIC photographs) with pillow-heif, if it is installed.

The decoder is used for these files alone. It is not registered with Pillow, so that `Image.open` elsewhere in the
program works as before.
"""

from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from visionward.errors import ImageError, MissingExtraError
from visionward.machine.extras import require

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
# These say only that the structure is HEIF's. An AVIF file has its own brand among the compatible ones.
_STRUCTURAL_BRANDS = (b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_MAX_BRANDS_BYTES = 4096


def is_heif(stream: BinaryIO) -> bool:
    """Whether a file is HEIF and not AVIF, by the brands in its first box. The file position is kept."""
    position = stream.tell()
    head = stream.read(16)
    size = int.from_bytes(head[:4], "big")
    further = stream.read(max(min(size, _MAX_BRANDS_BYTES) - 16, 0))
    stream.seek(position)
    if head[4:8] != b"ftyp":
        return False
    compatible = [further[at : at + 4] for at in range(0, len(further), 4)]
    return head[8:12] in _BRANDS or (
        head[8:12] in _STRUCTURAL_BRANDS and not any(brand in _AVIF_BRANDS for brand in compatible)
    )


def open_heif(stream: BinaryIO) -> Image.Image:
    """Open a HEIF file; nothing is decoded yet.

    The images are upright: orientation is a property of the container, which libheif applies. As the specification
    demands, the orientation in EXIF data does not count.

    Raises:
        ImageError: pillow-heif is not installed, or the file is an image sequence, of which pillow-heif shows only one
            image. Pillow's own errors are not converted.
    """
    try:
        library = require("pillow_heif")
    except MissingExtraError as cause:
        raise ImageError(f"a HEIF file (HEIC), and {cause}, or convert the image to JPEG") from cause
    if b"moov" in _boxes(stream):
        raise ImageError("a HEIF image sequence, which cannot be read: give its frames as images")
    image: Image.Image = library.HeifImageFile(stream)
    return image


def _boxes(stream: BinaryIO) -> Iterator[bytes]:
    """The types of the boxes at the top level of the file (ISO/IEC 14496-12, 4.2). The file position is kept."""
    start = position = stream.tell()
    while len(head := stream.read(16)) >= 8:
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        yield head[4:8]
        if size < 8:  # 0: to the end of the file
            break
        position += size
        stream.seek(position)
    stream.seek(start)
