"""The tiny checkpoints whose text-only logits are compared with Transformers'."""

from typing import Any

import numpy as np
from tiny_checkpoint import LLAMA_3_ROPE_SCALING, VOCABULARY

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"seed": 1},
    "llama3_rope": {"seed": 2, "layers": 8, "cross_layers": (2, 3, 6), "rope_scaling": LLAMA_3_ROPE_SCALING},
    "tied": {"seed": 3, "tied": True, "text_heads": 8, "text_heads_kv": 8},
}


def random_ids(variant: str) -> np.ndarray:
    """The tokens that a variant is run on."""
    rng = np.random.default_rng(list(VARIANTS).index(variant))
    return rng.integers(0, VOCABULARY, 40).astype(np.int32)
