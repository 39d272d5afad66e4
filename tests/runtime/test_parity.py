"""Features and logits against Transformers 4.53.3, corrected for rule 6 (tests/reference/make_image_fixture.py)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from image_variants import CASES, ImageCase
from tiny_checkpoint import IMAGE_TOKEN_ID

from visionward.runtime.engine import LogitsResult
from visionward.runtime.images.preprocess import Tiles

FIXTURE = np.load(Path(__file__).parents[1] / "reference" / "image_logits.npz")
EXACT_BOUND = 5e-5
DEFAULT_BOUND = 1e-2


def relative_error(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def check(result: LogitsResult, case: ImageCase, bound: float) -> None:
    logits, features = FIXTURE[f"{case.name}.logits"], FIXTURE[f"{case.name}.features"]
    assert result.features is not None
    assert result.logits.shape == logits.shape
    assert result.features.shape == features.shape
    assert relative_error(result.features, features) <= bound
    assert relative_error(result.logits, logits) <= bound
    ordered = np.sort(logits, axis=-1)
    margin = ordered[:, -1] - ordered[:, -2]
    clear = margin > 2 * np.abs(result.logits - logits).max(axis=-1)
    assert clear.mean() > 0.5
    assert (result.logits.argmax(-1) == logits.argmax(-1))[clear].all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("kind", "exact", "bound"),
    [("f32", True, EXACT_BOUND), ("f32", False, DEFAULT_BOUND), ("f16", False, DEFAULT_BOUND)],
    ids=["f32-exact", "f32", "f16"],
)
def test_logits_and_features(engine_of, case: ImageCase, kind: str, exact: bool, bound: float) -> None:
    engine = engine_of(case.checkpoint, kind, exact=exact)
    check(engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio)), case, bound)


@pytest.mark.parametrize("ubatch", [5, 16, 17, 18, 64])
def test_ubatch_boundaries_around_the_image(engine_of, ubatch: int) -> None:
    """Image at position 16: a graph ends before it (16), with it (17), behind it (18), elsewhere (5), nowhere (64)."""
    case = next(case for case in CASES if case.text_before == 15)
    assert case.tokens().index(IMAGE_TOKEN_ID) == 16
    engine = engine_of(case.checkpoint, "f32", exact=True, ubatch=ubatch)
    check(engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio)), case, EXACT_BOUND)


def test_rows_before_the_image_are_those_of_text_alone(engine_of) -> None:
    case = next(case for case in CASES if case.text_before == 15)
    tokens = case.tokens()
    position = tokens.index(IMAGE_TOKEN_ID)
    engine = engine_of(case.checkpoint, "f32", exact=True)
    seen = engine.logits(tokens, Tiles(case.pixels(), case.aspect_ratio)).logits
    alone = engine.logits(tokens[:position]).logits
    assert relative_error(seen[:position], alone) < 1e-6
    assert relative_error(seen[position:], seen[:1]) > 0.1


@pytest.mark.parametrize("ratio", [(1, 1), (1, 2), (1, 3)])
def test_collapsed_padding_is_exact(engine_of, ratio: tuple[int, int]) -> None:
    """Float16 keys and values alone make a difference of 1e-4; a wrong multiplicity makes one of more than 0.1."""
    case = next(case for case in CASES if case.checkpoint == "plain" and case.aspect_ratio == ratio)
    tiles = Tiles(case.pixels(), ratio)
    collapsed = engine_of("plain", "f32").encode_image(tiles)
    assert relative_error(collapsed, engine_of("plain", "f32", exact=True).encode_image(tiles)) < 1e-3
