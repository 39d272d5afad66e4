"""What every engine that runs the vision tower offers: pixels of an image to its projected tokens on ggml's device."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from visionward.runtime.ggml.graph import Storage
from visionward.runtime.images.preprocess import Tiles

# Called between layers, or several times per second by an engine that does not report its layers: layers that are
# done, layers in all. What it raises ends the computation.
OnLayer: TypeAlias = Callable[[int, int], None]


class Tower(Protocol):
    """A loaded vision tower.

    Attributes:
        width: the decoder's width, of which the projected tokens are.
    """

    width: int

    def encode(self, tiles: Tiles, on_layer: OnLayer) -> Storage:
        """Projected tokens of the real tiles. The caller closes the storage.

        Args:
            tiles: the preprocessed image.
            on_layer: called between layers; what it raises ends the computation.

        Returns:
            Storage with the float32 tensor ``states``, (decoder width, real tiles * tokens per tile) in ggml's order.

        Raises:
            ComputeError: if memory does not suffice, the device or engine fails, or its numbers are not finite.
        """
