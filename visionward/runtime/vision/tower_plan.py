"""The token layout of the vision tower, shared by every engine that runs it.

Tokens are ordered as

    real tiles | padding tiles | padding inside tiles

so that real tokens are the first rows. The reference (Meta's encoder_utils.py, Transformers' modeling_mllama.py)
always computes four tiles, with a mask that hides only padding from padding. Two attention calls without a mask give
the same result: real queries over all keys, and padding queries over the real keys.

Padding collapse: unused tiles have zero pixels and zero tile embeddings, so they are identical, and one can stand for
all m of them: adding log m to the scores of its keys counts them m times. That is exact, not an approximation.
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
        aspect_ratio_id: the id of the image's canvas.
        tiles: real tiles.
        padding_tiles: padding tiles that are computed: all unused ones, or one for all of them.
        padding_tile_count: number of unused tiles that each computed one stands for.
    """

    config: VisionConfig
    aspect_ratio_id: int
    tiles: int
    padding_tiles: int
    padding_tile_count: int

    @classmethod
    def of(cls, config: VisionConfig, tiles: Tiles, *, collapse: bool) -> "TowerPlan":
        """The plan for a tiled image. Padding is collapsed if ``collapse`` is set and the checkpoint allows it."""
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
        """Tokens of the real tiles: the rows that become features."""
        return self.tiles * self.config.tile_tokens

    @property
    def embedded_tiles(self) -> int:
        """Tiles that the patch embedding computes."""
        return self.tiles + self.padding_tiles

    @property
    def zero_tokens(self) -> int:
        """Padding tokens inside tiles, for the maximum number of tiles."""
        return self.config.max_tiles * self.config.tile_padding

    @property
    def tokens(self) -> int:
        """Rows per layer."""
        return self.embedded_tiles * self.config.tile_tokens + self.zero_tokens

    def patches(self, pixel_values: Array) -> Array:
        """Unfold pixels (tiles, 3, S, S) to (embedded tiles * tokens per tile, 3 * patch * patch).

        The first row of each tile, the class token's, is zero. Padding tiles are all zero.
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

    def key_bias(self) -> Array | None:
        """The bias of each key's scores for real queries: (tokens,), or None if it is zero."""
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
        position: (tokens per tile, width).
        tile_position: (tiles, tokens per tile, width).
        pre_tile: (tiles, width).
    """

    class_token: Array
    position: Array
    position_gate: float
    tile_position: Array
    pre_tile: Array
    pre_tile_gate: float
