"""Composing the frames of an animation as browsers do, each over what the earlier ones left on the canvas.

Pillow also composes the frames of GIF and APNG files, but differently from browsers: a GIF frame without a disposal
method inherits that of the frame before; the area that a frame leaves is opaque if the first frame is opaque; and the
first frame of an APNG is drawn over its default image. An animation that draws a picture in steps could hide it in
these differences. Each frame is therefore extracted from the file, decoded by Pillow as an image of its own, and
composed here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from PIL import Image


class Disposal(Enum):
    """What happens to a frame's region before the next frame is drawn."""

    KEEP = "keep"
    CLEAR = "clear"
    RESTORE = "restore"


@dataclass(frozen=True, eq=False)
class AnimationFrame:
    """A frame before it is composed.

    Attributes:
        position: (left, top) on the canvas.
        size: (width, height). The part outside the canvas is not shown.
        disposal: what happens to it afterwards.
        blend: whether the frame is blended with the canvas; otherwise it replaces the region, transparency included.
        file: makes an image file with this frame only.
    """

    position: tuple[int, int]
    size: tuple[int, int]
    disposal: Disposal
    blend: bool
    file: Callable[[], bytes]

    @property
    def pixels(self) -> int:
        """The number of pixels to decode."""
        return self.size[0] * self.size[1]


class Canvas:
    """The canvas of an animation, on which the frames are drawn from the first one on.

    Args:
        size: (width, height).
        frames: all frames in order.
        decode: decodes a frame's file to an RGBA image.
    """

    def __init__(
        self, size: tuple[int, int], frames: Sequence[AnimationFrame], decode: Callable[[bytes], Image.Image]
    ) -> None:
        self._frames = frames
        self._decode = decode
        self._shown = Image.new("RGBA", size)
        self._left = self._shown  # the next frame is drawn on this
        self._drawn = 0

    def show(self, index: int) -> Image.Image:
        """A frame as a viewer shows it, RGBA. Each index must be larger than the one before."""
        while self._drawn <= index:
            self._draw(self._frames[self._drawn])
            self._drawn += 1
        return self._shown

    def _draw(self, frame: AnimationFrame) -> None:
        picture = self._decode(frame.file())
        before, shown = self._left, self._left.copy()
        left, top = frame.position
        region = (left, top, min(left + picture.width, shown.width), min(top + picture.height, shown.height))
        if region[0] < region[2] and region[1] < region[3]:
            picture = picture.crop((0, 0, region[2] - left, region[3] - top))
            if frame.blend:
                shown.alpha_composite(picture, (left, top))
            else:
                shown.paste(picture, (left, top))
            if frame.disposal is Disposal.CLEAR:
                before = shown.copy()
                before.paste((0, 0, 0, 0), region)
        self._shown = shown
        self._left = shown if frame.disposal is Disposal.KEEP else before
