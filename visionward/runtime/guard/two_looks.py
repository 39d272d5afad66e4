"""``max_tiles="auto"``: a first look with one tile, and a second one with all tiles if the first is in doubt.

The two share no computation: the image is at the beginning of the prompt, and the decoder's keys and values of all
tokens behind it depend on it.
"""

from collections.abc import Callable
from dataclasses import asdict, replace

from visionward.formats.tile_band import TileBand
from visionward.names import MIN_ANSWER_MASS
from visionward.runtime.guard.answer import Logits
from visionward.runtime.guard.judgement import Observer
from visionward.runtime.guard.verdict import FirstLook, Timings, TokenCounts, Verdict

# Judges everything with at most so many tiles per picture, or the model's maximum, and shows the logits to an observer.
Look = Callable[[int | None, Observer | None], Verdict]


def look_twice(look: Look, band: TileBand, observe: Observer | None) -> Verdict:
    """The verdict with one tile if that is sure, else the verdict with all tiles.

    It is sure if every picture fits into one tile, or if the model answered and its score is outside the band.

    Args:
        look: judges.
        band: scores of a first look that ask for a second one.
        observe: shown the logits of the look that decides.
    """
    seen: list[Logits] = []
    first = look(1, None if observe is None else lambda logits: seen.append(logits.copy()))
    limited = first.preferred_tiles > first.tiles
    answered = first.answer_mass >= MIN_ANSWER_MASS
    if limited and (band.holds(first.score) or not answered):
        return _joined(first, look(None, observe), band, answered=answered)
    if observe is not None:
        for logits in seen:
            observe(logits)
    if not limited:
        return first
    note = f"P(unsafe) with one tile is outside the band from {band.low:g} to {band.high:g}: there was no second look."
    return replace(first, warnings=(*first.warnings, note))


def _joined(first: Verdict, second: Verdict, band: TileBand, *, answered: bool) -> Verdict:
    """The second verdict, with the times and tokens of both."""
    why = (
        f"P(unsafe) with one tile was {first.score:.3f}, in the band from {band.low:g} to {band.high:g}"
        if answered
        else "the model did not answer with one tile"
    )
    times, added = asdict(first.timings_ms), asdict(second.timings_ms)
    return replace(
        second,
        tokens=TokenCounts(first.tokens.prompt + second.tokens.prompt, first.tokens.decoded + second.tokens.decoded),
        timings_ms=Timings(**{stage: times[stage] + added[stage] for stage in times} | {"load": times["load"]}),
        first_look=FirstLook(first.score, first.answer_mass, first.tiles),
        warnings=(*second.warnings, f"{why}: the image was judged again with all tiles."),
    )
