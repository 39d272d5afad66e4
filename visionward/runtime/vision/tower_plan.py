"""The plan of the vision tower: which tokens are computed, in which order, and what is added to them.

It is shared by every engine that runs the tower. Tokens are laid out as

    real tiles | padding tiles | padding inside tiles

so that real tokens are the first rows. The reference (Meta's encoder_utils.py, Transformers' modeling_mllama.py)
computes four tiles whatever the image, with a mask that hides only padding from padding. Without any mask the same
comes out of two attention calls: real queries over all keys, padding queries over the real keys.

Padding collapse: unused tiles hold zero pixels and zero tile embeddings, so they are all alike, and one stands for
all: its keys count m times when log m is added to their scores. That is exact, not an approximation.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from visionward.formats.mmproj_format import VisionConfig
from visionward.runtime.images.preprocess import Tiles

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TowerPlan:
    """Token layout for one image.

    Attributes:
        config: the tower's shape.
        aspect_ratio_id: of the image's canvas.
        tiles: real tiles.
        padding_tiles: padding tiles that are computed: all unused ones, or one that stands for them.
        padding_tile_count: how many unused tiles each computed one stands for.
    """

    config: VisionConfig
    aspect_ratio_id: int
    tiles: int
    padding_tiles: int
    padding_tile_count: int

    @classmethod
    def of(cls, config: VisionConfig, tiles: Tiles, *, collapse: bool) -> "TowerPlan":
        """The plan for a tiled image; padding is collapsed where that is wanted and the checkpoint allows it."""
        real = tiles.pixel_values.shape[0]
        unused = config.max_tiles - real
        collapses = collapse and config.padding_collapses and unused > 0
        return cls(
            config=config,
            aspect_ratio_id=config.aspect_ratio_id(tiles.aspect_ratio),
            tiles=real,
            padding_tiles=1 if collapses else unused,
            padding_tile_count=unused if collapses else 1,
        )

    @property
    def real_tokens(self) -> int:
        """Tokens of the real tiles: the rows that features are taken from."""
        return self.tiles * self.config.tile_tokens

    @property
    def embedded_tiles(self) -> int:
        """Tiles that go through the patch embedding."""
        return self.tiles + self.padding_tiles

    @property
    def zero_tokens(self) -> int:
        """Padding tokens inside tiles, of all of the canvas's possible tiles."""
        return self.config.max_tiles * self.config.tile_padding

    @property
    def tokens(self) -> int:
        """Rows that the layers compute."""
        return self.embedded_tiles * self.config.tile_tokens + self.zero_tokens

    def patches(self, pixel_values: Array) -> Array:
        """Unfold pixels (tiles, 3, S, S) to (embedded tiles * tokens a tile, 3 * patch * patch).

        Each tile's first row is zero: the class token's place. Padding tiles are zero altogether.
        """
        patch, side = self.config.patch_size, self.config.tile_size // self.config.patch_size
        width = 3 * patch * patch
        rows = np.zeros((self.embedded_tiles, self.config.tile_tokens, width), np.float32)
        inner = pixel_values[:, :, : side * patch, : side * patch]
        folded = inner.reshape(self.tiles, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
        rows[: self.tiles, 1:] = folded.reshape(self.tiles, side * side, width)
        return rows.reshape(-1, width)

    def embedding(self, weights: "EmbeddingWeights") -> Array:
        """Class token, tile and position embeddings, to be added to the patch embeddings: (rows of patches, width)."""
        shape = (self.embedded_tiles, self.config.tile_tokens, self.config.width)
        gate = math.tanh(weights.position_gate)
        added = np.empty(shape, np.float32)
        added[:] = (1 - gate) * weights.position
        added += gate * weights.tile_position[: self.embedded_tiles]
        added[:, 0] += weights.class_token
        pre = math.tanh(weights.pre_tile_gate) * weights.pre_tile[: self.embedded_tiles]
        added[:, 1:] += pre[:, None]
        return added.reshape(-1, self.config.width)

    def post_tile(self, weights: "EmbeddingWeights") -> Array:
        """What is added between the two transformers: (tokens, width)."""
        post = math.tanh(weights.post_tile_gate) * weights.post_tile
        of_tiles = np.repeat(post[: self.embedded_tiles], self.config.tile_tokens, axis=0)
        of_zeros = np.repeat(post, self.config.tile_padding, axis=0)
        return np.concatenate([of_tiles, of_zeros]).astype(np.float32)

    def key_bias(self) -> Array | None:
        """What real queries add to the scores of each key: (tokens,), or None where that is nothing."""
        if self.padding_tiles * math.log(self.padding_tile_count) == 0:
            return None
        bias = np.zeros(self.tokens, np.float32)
        first = self.real_tokens
        bias[first : first + self.padding_tiles * self.config.tile_tokens] = math.log(self.padding_tile_count)
        return bias


@dataclass(frozen=True)
class EmbeddingWeights:
    """The tower's embeddings for one canvas, float32, and their gates before tanh.

    Attributes:
        class_token: (width,).
        position: (tokens a tile, width).
        tile_position: (tiles, tokens a tile, width).
        pre_tile, post_tile: (tiles, width).
    """

    class_token: Array
    position: Array
    position_gate: float
    tile_position: Array
    pre_tile: Array
    pre_tile_gate: float
    post_tile: Array
    post_tile_gate: float
