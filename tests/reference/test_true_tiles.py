"""The exact mode against Transformers 4.53.3, corrected for rule 6, with four tiles of 560 px.

What the default mode is compared with in tests/runtime/decoder/test_batch_sizes.py is itself right at that size.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from true_tiles import noise, prompt, row_errors, write_true_tiles_checkpoint

from visionward import Engine
from visionward.convert import convert_checkpoint

EXACT_BOUND = 5e-5


@dataclass(frozen=True)
class Case:
    """What make_image_fixture.py asks of one."""

    aspect_ratio: tuple[int, int]
    length: int

    def pixels(self) -> npt.NDArray[np.float32]:
        return noise(self.aspect_ratio).pixel_values

    def tokens(self) -> list[int]:
        return prompt(self.length)


@pytest.mark.reference
def test_exact_logits_and_features_at_the_real_tile_size(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from reference.make_image_fixture import correct_rule_6, reference  # noqa: PLC0415 - needs torch

    case = Case((2, 2), 80)
    checkpoint = write_true_tiles_checkpoint(tmp_path / "true")
    model = transformers.MllamaForConditionalGeneration.from_pretrained(
        checkpoint, torch_dtype=torch.float32, attn_implementation="eager"
    ).eval()
    correct_rule_6(model)
    logits, features = reference(model, case)
    pair = convert_checkpoint(checkpoint, tmp_path, text_type="f32", mmproj_type="f32")
    engine = Engine(pair.text, pair.mmproj, n_ctx=128, exact=True)
    try:
        found = engine.logits(case.tokens(), noise(case.aspect_ratio))
    finally:
        engine.close()
    assert row_errors(found.logits, logits).max() < EXACT_BOUND
    assert row_errors(found.features, features).max() < EXACT_BOUND
