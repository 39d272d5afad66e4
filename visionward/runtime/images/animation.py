"""Composing the frames of an animation as browsers do: each over what the ones before left on the canvas.

Pillow composes frames of GIF and APNG files too, but not as browsers do: a GIF frame that does not say how it is
disposed of inherits that from the one before; what a frame leaves behind is opaque where the first frame is; the first
frame of an APNG is drawn over its default image. Whatever is drawn bit by bit can hide in such a difference. So each
frame is cut out of the file and handed to Pillow as a picture of its own, and put together here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from PIL import Image


class Disposal(Enum):
    """What happens to a frame's region before the next one is drawn."""

    KEEP = "keep"
    CLEAR = "clear"
    RESTORE = "restore"


@dataclass(frozen=True, eq=False)
class AnimationFrame:
    """A frame before it is composed.

    Attributes:
        position: (left, top) on the canvas.
        size: (width, height); what is outside of the canvas is not seen.
        disposal: what happens to it afterwards.
        blend: whether it is drawn over what is there; otherwise it replaces it, transparency included.
        file: makes the file of a picture that is this frame alone.
    """

    position: tuple[int, int]
    size: tuple[int, int]
    disposal: Disposal
    blend: bool
    file: Callable[[], bytes]

    @property
    def pixels(self) -> int:
        """Pixels that have to be decoded."""
        return self.size[0] * self.size[1]


class Canvas:
    """What an animation has drawn so far, from the first frame on.

    Args:
        size: (width, height).
        frames: all frames in order.
        decode: makes an RGBA image of a frame's file.
    """

    def __init__(
        self, size: tuple[int, int], frames: Sequence[AnimationFrame], decode: Callable[[bytes], Image.Image]
    ) -> None:
        self._frames = frames
        self._decode = decode
        self._shown = Image.new("RGBA", size)
        self._left = self._shown  # what the next frame is drawn on
        self._drawn = 0

    def show(self, index: int) -> Image.Image:
        """A frame as a viewer shows it, RGBA. Indices may only grow."""
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
