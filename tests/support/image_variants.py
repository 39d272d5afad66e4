"""The checkpoints, pictures and prompts of the image fixture: shared by the script that makes it and its tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import IMAGE_TOKEN_ID, token_id

TILE_SIZE = 56


@dataclass(frozen=True)
class ImageCase:
    """One picture in one prompt on one checkpoint.

    Attributes:
        checkpoint: key of CHECKPOINTS.
        aspect_ratio: tiles high, tiles wide.
        text_before: text tokens between begin-of-text and the image.
        text_after: text tokens behind the image.
    """

    checkpoint: str
    aspect_ratio: tuple[int, int]
    text_before: int = 0
    text_after: int = 12

    @property
    def name(self) -> str:
        """A readable key."""
        high, wide = self.aspect_ratio
        return f"{self.checkpoint}-{high}x{wide}-after-{self.text_before}"

    def tokens(self) -> list[int]:
        """Begin-of-text, text, the image, text."""
        rng = np.random.default_rng(len(self.name) + self.text_before)
        before, after = (rng.integers(0, 500, n).tolist() for n in (self.text_before, self.text_after))
        return [token_id("<|begin_of_text|>"), *before, IMAGE_TOKEN_ID, *after]

    def pixels(self) -> npt.NDArray[np.float32]:
        """Normalised pixels of the real tiles, (tiles, 3, side, side)."""
        high, wide = self.aspect_ratio
        rng = np.random.default_rng(high * 10 + wide)
        return rng.standard_normal((high * wide, 3, TILE_SIZE, TILE_SIZE)).astype(np.float32)


# Arguments of ``write_tiny_checkpoint``.
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "plain": {"seed": 11},
    # Several cross-attention layers in a row share one hook.
    "stacked": {"seed": 12, "layers": 7, "cross_layers": (2, 3, 5)},
    # Padding tiles that are not alike: they must not be collapsed.
    "unlike": {"seed": 13, "zero_unused_tiles": False},
    # No grouped heads, and the head width of the real tower, which is no power of two.
    "narrow": {"seed": 14, "text_heads_kv": 4, "vision_width": 160},
}

CASES = (
    *(ImageCase("plain", ratio) for ratio in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (4, 1), (2, 2))),
    ImageCase("plain", (1, 2), text_before=15),
    ImageCase("stacked", (2, 2), text_before=3),
    ImageCase("unlike", (1, 1)),
    ImageCase("unlike", (1, 2)),
    ImageCase("narrow", (1, 1), text_before=2),
)
