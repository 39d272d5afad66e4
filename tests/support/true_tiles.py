"""A checkpoint with the real model's tiles, four of 560 px, and little else: narrow, and a few layers deep.

What goes wrong over 1,601 tokens a tile does not show over the 17 of other tiny checkpoints. Its layers make the
decoder depend on what cross-attention reads: the image's tokens have a large part in common, as trained models' do, so
that thousands of values do not average out to nothing, and the attention's output is large.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tiny_checkpoint import IMAGE_TOKEN_ID, tiny_config, tiny_weights, token_id, write_tiny_checkpoint

from visionward.runtime.images.preprocess import Tiles

TILE_SIZE = 560
TILE_TOKENS = 1601
SETTINGS: dict[str, Any] = {
    "layers": 5,
    "cross_layers": (1, 3),
    # Heads are as wide as the real ones, 128, and share keys in pairs.
    "text_width": 512,
    "text_heads": 4,
    "text_heads_kv": 2,
    "vision_width": 64,
    "vision_heads": 1,
    "local_layers": 2,
    "global_layers": 1,
    "intermediate": (1,),
    "tile_size": TILE_SIZE,
}


def write_true_tiles_checkpoint(path: Path) -> Path:
    """Write the checkpoint directory and return its path."""
    weights = tiny_weights(tiny_config(**SETTINGS), seed=21)
    factors = {"cross_attn.o_proj.weight": 8, "multi_modal_projector.bias": 12}
    changed = {
        name: values * np.float32(factor)
        for name, values in weights.items()
        for ending, factor in factors.items()
        if name.endswith(ending)
    }
    return write_tiny_checkpoint(path, seed=21, weights=changed, **SETTINGS)


def noise(ratio: tuple[int, int]) -> Tiles:
    """A picture of noise that fills its tiles (high, wide)."""
    shape = (ratio[0] * ratio[1], 3, TILE_SIZE, TILE_SIZE)
    return Tiles(np.random.default_rng(ratio).standard_normal(shape).astype(np.float32), ratio)


def prompt(length: int) -> list[int]:
    """Begin-of-text, the image and text; an image alone where there is one token."""
    text = np.random.default_rng(length).integers(0, 500, length).tolist()
    return [IMAGE_TOKEN_ID] if length == 1 else [token_id("<|begin_of_text|>"), IMAGE_TOKEN_ID, *text][:length]


def row_errors(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The relative error of each row."""
    return np.asarray(np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1))
