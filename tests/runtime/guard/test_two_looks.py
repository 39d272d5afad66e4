"""``max_tiles="auto"``: which look decides, and what the verdict says of both."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fake_guard import SAFE, UNSAFE

from visionward import Guard, Verdict
from visionward.errors import OptionError, PolicyError
from visionward.formats.tile_band import TileBand
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.guard.two_looks import look_twice
from visionward.runtime.guard.verdict import FirstLook, Timings, TokenCounts

BAND = TileBand(0.1, 0.9)
PICTURE = np.random.default_rng(5).integers(0, 255, (70, 100, 3), np.uint8)
LIMITED = replace(SAFE, tiles=1, preferred_tiles=4, timings_ms=Timings(5, 1, 10, 20, 0, 31))
WHOLE = replace(UNSAFE, score=0.6, tiles=4, preferred_tiles=4, timings_ms=Timings(5, 2, 40, 20, 8, 70))
LOGITS = {1: np.float32([1, 2]), None: np.float32([3, 4])}


def looks(first: Verdict) -> tuple[Callable[..., Verdict], list[int | None]]:
    made: list[int | None] = []

    def look(max_tiles, observe):
        made.append(max_tiles)
        if observe is not None:
            observe(LOGITS[max_tiles])
        return first if max_tiles == 1 else WHOLE

    return look, made


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (replace(LIMITED, score=0.0999), 1),
        (replace(LIMITED, score=0.1), 2),
        (replace(LIMITED, score=0.5), 2),
        (replace(LIMITED, score=0.9, verdict="unsafe"), 2),
        (replace(LIMITED, score=0.9001, verdict="unsafe"), 1),
        # No answer is never sure, whatever its score.
        (replace(LIMITED, score=0.01, answer_mass=0.49, verdict="unsafe"), 2),
        (replace(LIMITED, score=0.99, answer_mass=float("nan"), verdict="unsafe"), 2),
        (replace(LIMITED, score=float("nan"), verdict="unsafe"), 2),
        # All that there is to see was seen.
        (replace(LIMITED, score=0.5, preferred_tiles=1), 1),
        (replace(LIMITED, score=0.5, tiles=0, preferred_tiles=0), 1),
    ],
)
def test_which_look_decides(first, count):
    look, made = looks(first)
    seen: list[np.ndarray] = []
    verdict = look_twice(look, BAND, seen.append)
    assert made == [1, None][:count]
    assert verdict.verdict == (first if count == 1 else WHOLE).verdict
    assert [logits.tolist() for logits in seen] == [LOGITS[made[-1]].tolist()]
    assert (verdict.first_look is None) == (count == 1)


def test_the_verdict_has_both_looks():
    look, _ = looks(replace(LIMITED, score=0.3))
    verdict = look_twice(look, BAND, None)
    assert (verdict.verdict, verdict.score, verdict.tiles, verdict.preferred_tiles) == ("unsafe", 0.6, 4, 4)
    assert verdict.first_look == FirstLook(0.3, SAFE.answer_mass, 1)
    assert verdict.timings_ms == Timings(5, 3, 50, 40, 8, 101)
    assert verdict.tokens == TokenCounts(410, 6)
    assert verdict.warnings[-1] == (
        "P(unsafe) with one tile was 0.300, in the band from 0.1 to 0.9: the image was judged again with all tiles."
    )


def test_the_verdict_says_that_one_tile_decided():
    look, _ = looks(replace(LIMITED, score=0.05))
    assert look_twice(look, BAND, None).warnings[-1] == (
        "P(unsafe) with one tile is outside the band from 0.1 to 0.9: there was no second look."
    )


def test_a_model_that_does_not_answer_looks_twice(engine_of) -> None:
    """The tiny model puts little probability on safe and unsafe."""
    auto = Guard(engine_of(n_ctx=1024, max_tiles="auto", band=BAND))
    whole = Guard(engine_of(n_ctx=1024)).classify(image=PICTURE, prompt="Look")
    one = Guard(engine_of(n_ctx=1024, max_tiles=1)).classify(image=PICTURE, prompt="Look")
    verdict = auto.classify(image=PICTURE, prompt="Look")
    assert (verdict.score, verdict.tiles) == (whole.score, 4)
    assert verdict.first_look == FirstLook(one.score, one.answer_mass, 1)
    assert "the model did not answer with one tile: the image was judged again with all tiles." in verdict.warnings
    # Both looks are in the image cache, each under its own tiles.
    assert auto.engine.image_cache.entries == 2
    assert auto.classify(image=PICTURE, prompt="Other").score != verdict.score
    assert auto.engine.image_cache.hits == 2
    text = auto.classify(prompt="Look")
    assert (text.first_look, text.tiles) == (None, 0)
    with pytest.raises(PolicyError, match="outside the band"):
        auto.classify(image=PICTURE, prompt="Look", threshold=0.95)


@pytest.mark.parametrize("options", [{"max_tiles": "auto"}, {"band": BAND}, {"max_tiles": 2, "band": BAND}])
def test_auto_and_a_band_need_each_other(options) -> None:
    with pytest.raises(OptionError, match="need each other"):
        EngineOptions(**options)


def test_a_word_that_is_not_auto() -> None:
    with pytest.raises(OptionError, match="max_tiles is 'all'; it must be a number or 'auto'"):
        EngineOptions(max_tiles="all")
