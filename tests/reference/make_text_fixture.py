"""Make tests/reference/text_logits.npz: what Transformers 4.53.3 says to tiny checkpoints without an image.

    python tests/reference/make_text_fixture.py

Needs the training extra. The file holds, for each variant, token ids and the logits of every position.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from text_variants import VARIANTS, random_ids  # noqa: E402 - needs the path above
from tiny_checkpoint import write_tiny_checkpoint  # noqa: E402 - needs the path above


def text_logits(checkpoint: Path, ids: np.ndarray) -> np.ndarray:
    """The logits of every position, computed by Transformers in f32 without an image."""
    model = transformers.MllamaForConditionalGeneration.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].numpy()


def main() -> None:
    """Write the fixture."""
    if transformers.__version__ != "4.53.3":
        raise SystemExit(f"transformers 4.53.3 is the reference, found {transformers.__version__}")
    arrays = {}
    for name, settings in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_tiny_checkpoint(Path(folder), **settings)
            ids = random_ids(name)
            arrays[f"{name}.ids"] = ids
            arrays[f"{name}.logits"] = text_logits(checkpoint, ids)
    np.savez_compressed(HERE / "text_logits.npz", **arrays)


if __name__ == "__main__":
    main()
