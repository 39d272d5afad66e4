"""Make tests/reference/image_logits.npz: what Transformers 4.53.3, corrected for rule 6, says to tiny checkpoints.

    python tests/reference/make_image_fixture.py

Needs the training extra. The file holds, for each case of tests/support/image_variants.py, the logits of every
position and the projected vision features of the real tiles.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent.parent)]

from image_variants import CASES, CHECKPOINTS, ImageCase  # noqa: E402 - needs the path above
from tiny_checkpoint import IMAGE_TOKEN_ID, write_tiny_checkpoint  # noqa: E402 - needs the path above

from training.mllama_reference import correct_rule_6  # noqa: E402 - needs the path above


def reference(model: transformers.MllamaForConditionalGeneration, case: ImageCase) -> tuple[np.ndarray, np.ndarray]:
    """Logits (tokens, rows) and features (tiles, tokens a tile, decoder width)."""
    vision = model.config.vision_config
    pixels, tokens = case.pixels(), case.tokens()
    tiles = len(pixels)
    canvas = torch.zeros(1, 1, vision.max_num_tiles, 3, vision.image_size, vision.image_size)
    canvas[0, 0, :tiles] = torch.from_numpy(pixels)
    ratio = torch.tensor([[1 + vision.supported_aspect_ratios.index(list(case.aspect_ratio))]])
    mask = torch.zeros(1, 1, vision.max_num_tiles, dtype=torch.long)
    mask[0, 0, :tiles] = 1
    seen = torch.zeros(1, len(tokens), 1, vision.max_num_tiles, dtype=torch.long)
    seen[0, tokens.index(IMAGE_TOKEN_ID) :, 0, :tiles] = 1
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            pixel_values=canvas,
            aspect_ratio_ids=ratio,
            aspect_ratio_mask=mask,
            cross_attention_mask=seen,
            attention_mask=torch.ones_like(ids),
        ).logits[0]
        states = model.model.vision_model(canvas, ratio, mask).last_hidden_state[0, 0, :tiles]
        features = model.model.multi_modal_projector(states)
    return logits.numpy(), features.numpy()


def main() -> None:
    """Write the fixture."""
    if transformers.__version__ != "4.53.3":
        raise SystemExit(f"transformers 4.53.3 is the reference, found {transformers.__version__}")
    arrays = {}
    for name, settings in CHECKPOINTS.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_tiny_checkpoint(Path(folder), **settings)
            model = transformers.MllamaForConditionalGeneration.from_pretrained(
                checkpoint, torch_dtype=torch.float32, attn_implementation="eager"
            ).eval()
            correct_rule_6(model)
            for case in (case for case in CASES if case.checkpoint == name):
                logits, features = reference(model, case)
                arrays |= {f"{case.name}.logits": logits, f"{case.name}.features": features}
    np.savez_compressed(HERE / "image_logits.npz", **arrays)


if __name__ == "__main__":
    main()
