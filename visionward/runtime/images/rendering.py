"""A decoded picture as a viewer shows it: RGB, upright, its colours in sRGB, on a background where it is transparent.

What a viewer shows is what must be judged: an image that looks different to the guard than to a person is a hole.

- 16-bit greyscale is divided by 257, as viewers do; Pillow's own conversion clips everything above 255 to white.
- 32-bit integers are read as 16-bit values if one is above 255 (Pillow 10 decodes 16-bit PNG and PPM files into this
  mode), as 8-bit values otherwise, except in PNG and PPM files, where they are always 16-bit ones.
- Floats are read as 0..1 if none is above 1, as 0..255 otherwise.

Conversions are done for some rows at a time, so that a large picture is held twice at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images.colour import ToSrgb

WHITE, BLACK = 255, 0
# Pixels that are converted at a time.
_STRIP_PIXELS = 2**20

_T = Image.Transpose
_SWAPPING = (_T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
# Of the picture as it is stored, these transposes put the last rows or columns first.
_REVERSING = (_T.ROTATE_180, _T.FLIP_TOP_BOTTOM, _T.TRANSVERSE, _T.ROTATE_90)


@dataclass(frozen=True, eq=False)
class Rendering:
    """A picture whose rows are converted when they are asked for.

    Attributes:
        image: as it is stored; loaded.
        background: the grey behind what is transparent.
        upright: what turns it upright.
        to_srgb: what its colours go through.
        full_scale: the value of white, for 16-bit, 32-bit and float greyscale.
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
            ImageError: it has no pixels, or values of no known range.
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
        """The whole picture in RGB; the stored image itself if it is that already."""
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
        """Where some rows of the upright picture are in the stored one."""
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
    """Whether any pixel is less than opaque."""
    if not image.has_transparency_data:
        return False
    scale = _full_scale(image)
    strips = (_crop(image, (0, top, image.width, bottom)) for top, bottom in _strips(*image.size))
    return any(_rgba(strip, scale).getchannel("A").histogram()[255] < strip.width * strip.height for strip in strips)


def to_rgba(image: Image.Image) -> Image.Image:
    """An image of any mode in RGBA, its colours as they are.

    Raises:
        ImageError: it has values of no known range.
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
    """16-bit, 32-bit or float greyscale as bytes, with alpha where a value is named transparent."""
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
    """The value of white in 16-bit, 32-bit or float greyscale, see the module's docstring; None for bytes.

    Raises:
        ImageError: the values have no known range.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return None
    strips = (np.asarray(_crop(image, (0, top, image.width, bottom))) for top, bottom in _strips(*image.size))
    extremes = [(strip.min(), strip.max()) for strip in strips]
    low, high = np.min([least for least, _ in extremes]), np.max([most for _, most in extremes])
    if not (low >= 0 and high <= 65535):  # false for NaN too
        raise ImageError(f"the pixel values go from {low} to {high}, expected 0 to 65535")
    if image.mode == "F":
        if high > 255:
            raise ImageError(f"the float pixel values go up to {high}, expected 0 to 1 or 0 to 255")
        return 1 if high <= 1 else 255
    return 65535 if image.mode != "I" or high > 255 or image.format in {"PNG", "PPM"} else 255
