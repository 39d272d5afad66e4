"""From an RGB image to the tiles that are the input of the vision tower.

This reproduces the slow image processor of Transformers 4.53.3 (`image_processing_mllama.py`) bit for bit, which agrees
with Meta's reference implementation on opaque images.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from visionward.formats.mmproj_format import VisionConfig
from visionward.runtime.images.rendering import Rendering


@dataclass(frozen=True, eq=False)
class Tiles:
    """An image cut into tiles.

    Attributes:
        pixel_values: normalized pixels of the used tiles, row-major over the canvas, (tiles, 3, S, S) for tiles of
            S x S pixels. Unused tiles, which would be zero, are omitted.
        aspect_ratio: (tiles high, tiles wide) of the canvas.
        preferred: the canvas without a limit on the tiles; None if it is the same.
    """

    pixel_values: npt.NDArray[np.float32]
    aspect_ratio: tuple[int, int]
    preferred: tuple[int, int] | None = None

    @property
    def preferred_tiles(self) -> int:
        """The number of tiles without a limit on them."""
        high, wide = self.preferred or self.aspect_ratio
        return high * wide

    @cached_property
    def digest(self) -> bytes:
        """A hash of the contents. The tower computes the same for tiles with the same digest."""
        return hashlib.sha256(repr(self.aspect_ratio).encode() + self.pixel_values.tobytes()).digest()


def choose_canvas(height: int, width: int, config: VisionConfig, max_tiles: int | None = None) -> tuple[int, int]:
    """The canvas (tiles high, tiles wide) for an image of a size in pixels, of at most ``max_tiles`` tiles.

    It is the canvas that enlarges the image least, if any holds it without shrinking, else the one that shrinks it
    least. Of several with the same scale it is the one with the fewest tiles, then the first.
    """
    limit = config.max_tiles if max_tiles is None else max_tiles
    canvases = [(high, wide) for high, wide in config.aspect_ratios if high * wide <= limit]
    scales = [min(wide * config.tile_size / width, high * config.tile_size / height) for high, wide in canvases]
    enlarging = [scale for scale in scales if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales)
    fitting = [canvas for canvas, scale in zip(canvases, scales, strict=True) if scale == chosen]
    return min(fitting, key=lambda canvas: canvas[0] * canvas[1])


def resized_size(height: int, width: int, canvas: tuple[int, int], tile_size: int) -> tuple[int, int]:
    """The (height, width) in pixels to which an image is resized for a canvas (tiles high, tiles wide).

    The arithmetic is in float64, as in the reference. Exact arithmetic gives another size for one image in a hundred.
    """
    target_height = min(max(height, tile_size), canvas[0] * tile_size)
    target_width = min(max(width, tile_size), canvas[1] * tile_size)
    scale_height, scale_width = target_height / height, target_width / width
    if scale_width < scale_height:
        return min(math.floor(height * scale_width) or 1, target_height), target_width
    return target_height, min(math.floor(width * scale_height) or 1, target_width)


def tile_image(image: Image.Image | Rendering, config: VisionConfig, max_tiles: int | None = None) -> Tiles:
    """Resize an image, place it in the top left corner of a black canvas, normalize it and cut it into tiles.

    Args:
        image: the image.
        config: the tower's input. Aspect ratio ids are those of its canvases, whatever the limit.
        max_tiles: the maximum number of tiles, from 1 on; None for the model's.

    Raises:
        ImageError: the image has no pixels, or values outside the known ranges.
    """
    picture = image if isinstance(image, Rendering) else Rendering.of(image)
    size = config.tile_size
    full_width, full_height = picture.size
    canvas = choose_canvas(full_height, full_width, config, max_tiles)
    preferred = choose_canvas(full_height, full_width, config)
    height, width = resized_size(full_height, full_width, canvas, size)
    resized = np.asarray(picture.whole().resize((width, height), Image.Resampling.BILINEAR))

    table = _normalized_values(config)
    high, wide = canvas
    tiles = np.empty((high * wide, 3, size, size), np.float32)
    for index, tile in enumerate(tiles):
        top, left = index // wide * size, index % wide * size
        pixels = resized[top : top + size, left : left + size]
        rows, columns = pixels.shape[:2]
        for channel in range(3):
            # mode "clip", because "raise" buffers the output; a byte is always in range
            np.take(table[channel], pixels[:, :, channel], out=tile[channel, :rows, :columns], mode="clip")
            tile[channel, rows:] = table[channel, 0]
            tile[channel, :rows, columns:] = table[channel, 0]
    return Tiles(tiles, canvas, None if preferred == canvas else preferred)


def _normalized_values(config: VisionConfig) -> npt.NDArray[np.float32]:
    """The normalized values of the 256 byte values, per channel, (3, 256).

    As in the reference, the values are rescaled in float64 and rounded to float32 before mean and standard deviation.
    """
    rescaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.array(config.image_mean, np.float32)[:, None]
    std = np.array(config.image_std, np.float32)[:, None]
    values: npt.NDArray[np.float32] = (rescaled - mean) / std
    return values
