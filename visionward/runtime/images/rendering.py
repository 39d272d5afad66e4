"""A decoded picture as a viewer shows it: RGB, upright, colours in sRGB, a background behind transparency.

- 16-bit greyscale is divided by 257, as in viewers. Pillow's own conversion turns everything above 255 into white.
- 32-bit integers are 16-bit values in PNG and PPM files (Pillow 10 decodes 16-bit files to this mode). In other files
  they are 16-bit values if any is above 255, and 8-bit values otherwise.
- Floats are in the range 0..1 if none is above 1, and 0..255 otherwise.

Some rows are converted at a time, so that at most two copies of a large picture are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images.colour import ToSrgb

WHITE, BLACK = 255, 0
# How many pixels are converted at a time.
_STRIP_PIXELS = 2**20

_T = Image.Transpose
_SWAPPING = (_T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
# These transposes put the last rows or columns of the stored picture first.
_REVERSING = (_T.ROTATE_180, _T.FLIP_TOP_BOTTOM, _T.TRANSVERSE, _T.ROTATE_90)


@dataclass(frozen=True, eq=False)
class Rendering:
    """A picture that is converted when `whole` is called.

    Attributes:
        image: the loaded image as stored.
        background: the grey level behind transparency.
        upright: how to make it upright.
        to_srgb: how to convert its colours.
        full_scale: the value of white in 16-bit, 32-bit and float greyscale.
    """

    image: Image.Image
    background: int = WHITE
    upright: Image.Transpose | None = None
    to_srgb: ToSrgb | None = None
    full_scale: float | None = None

    @classmethod
    def of(
        cls,
        image: Image.Image,
        background: int = WHITE,
        upright: Image.Transpose | None = None,
        to_srgb: ToSrgb | None = None,
    ) -> "Rendering":
        """The rendering of an image of any mode.

        Raises:
            ImageError: the image has no pixels, or values outside the known ranges.
        """
        if 0 in image.size:
            raise ImageError(f"the image has no pixels: {image.width} x {image.height}")
        return cls(image, background, upright, to_srgb, _full_scale(image))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        width, height = self.image.size
        return (height, width) if self.upright in _SWAPPING else (width, height)

    def whole(self) -> Image.Image:
        """The picture in RGB; the stored image itself if nothing has to be converted."""
        if (
            self.image.mode == "RGB"
            and self.upright is None
            and self.to_srgb is None
            and not self.image.has_transparency_data
        ):
            return self.image
        width, height = self.size
        picture = Image.new("RGB", (width, height))
        for top, bottom in _strips(width, height):
            picture.paste(self._rows(top, bottom), (0, top))
        return picture

    def _rows(self, top: int, bottom: int) -> Image.Image:
        rgb = self._rgb(_crop(self.image, self._stored(top, bottom)))
        return rgb if self.upright is None else rgb.transpose(self.upright)

    def _stored(self, top: int, bottom: int) -> tuple[int, int, int, int]:
        """The box in the stored picture of some rows of the upright one."""
        width, height = self.image.size
        if self.upright in _REVERSING:
            top, bottom = self.size[1] - bottom, self.size[1] - top
        return (top, 0, bottom, height) if self.upright in _SWAPPING else (0, top, width, bottom)

    def _rgb(self, strip: Image.Image) -> Image.Image:
        if self.full_scale is not None:
            strip = _bytes_of(strip, self.full_scale)
        if not strip.has_transparency_data:
            if self.to_srgb is not None:
                return self.to_srgb(strip)
            return strip if strip.mode == "RGB" else strip.convert("RGB")
        rgba = _rgba(strip)
        if self.to_srgb is not None:
            alpha = rgba.getchannel("A")
            rgba = self.to_srgb(rgba.convert("RGB"))
            rgba.putalpha(alpha)
        behind = Image.new("RGBA", rgba.size, (self.background,) * 3)
        return Image.alpha_composite(behind, rgba).convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if not image.has_transparency_data:
        return False
    scale = _full_scale(image)
    strips = (_crop(image, (0, top, image.width, bottom)) for top, bottom in _strips(*image.size))
    return any(_rgba(strip, scale).getchannel("A").histogram()[255] < strip.width * strip.height for strip in strips)


def to_rgba(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGBA without converting its colours to sRGB.

    Raises:
        ImageError: the image has values outside the known ranges.
    """
    return _rgba(image, _full_scale(image))


def _strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    rows = max(_STRIP_PIXELS // max(width, 1), 1)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _rgba(image: Image.Image, full_scale: float | None = None) -> Image.Image:
    if full_scale is not None:
        image = _bytes_of(image, full_scale)
    premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(premultiplied) if premultiplied else image).convert("RGBA")


def _bytes_of(image: Image.Image, full_scale: float) -> Image.Image:
    """16-bit, 32-bit or float greyscale as bytes, with an alpha channel if a value is marked as transparent."""
    values = np.asarray(image)
    if full_scale == 65535:
        grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    else:
        grey = Image.fromarray(np.rint(values * (255 / full_scale)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    return grey


def _full_scale(image: Image.Image) -> float | None:
    """The value of white in 16-bit, 32-bit or float greyscale (see the module docstring); None for bytes.

    Raises:
        ImageError: the values are outside the known ranges.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return None
    strips = (np.asarray(_crop(image, (0, top, image.width, bottom))) for top, bottom in _strips(*image.size))
    extremes = [(strip.min(), strip.max()) for strip in strips]
    low, high = np.min([least for least, _ in extremes]), np.max([most for _, most in extremes])
    if not (low >= 0 and high <= 65535):  # false for NaN too
        raise ImageError(f"the pixel values range from {low} to {high}, expected 0 to 65535")
    if image.mode == "F":
        if high > 255:
            raise ImageError(f"the float pixel values go up to {high}, expected 0 to 1 or 0 to 255")
        return 1 if high <= 1 else 255
    return 65535 if image.mode != "I" or high > 255 or image.format in {"PNG", "PPM"} else 255
