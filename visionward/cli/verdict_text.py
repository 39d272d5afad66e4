"""A verdict as people read it."""

from collections.abc import Iterator, Mapping

import click

from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.verdict import Verdict

_COLOURS = {"safe": "green", "unsafe": "red"}
_JUDGED = {"User": "the user's message", "Agent": "the assistant's response"}


def coloured(verdict: str) -> str:
    """The word in capitals, in its colour; click leaves the colour out where nobody would see it."""
    return click.style(verdict.upper(), fg=_COLOURS[verdict], bold=True)


def seconds(milliseconds: float) -> str:
    """A time with as many digits as matter."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _named(scores: Mapping[str, float], names: Mapping[str, str]) -> Iterator[str]:
    width = max((len(names[code]) for code in scores), default=0)
    for code, score in scores.items():
        yield f"  {code:<4} {names[code]:<{width}}  {score:.3f}"


def verdict_lines(verdict: Verdict, policy: Policy, threshold: float, *, all_scores: bool = False) -> Iterator[str]:
    """A short report.

    Args:
        verdict: what to report.
        policy: the categories in force, for their names.
        threshold: from which score on a verdict is unsafe.
        all_scores: list every category in force and not only those that the model named.
    """
    yield f"{coloured(verdict.verdict)}  score {verdict.score:.3f} (unsafe from {threshold:g} on)"
    yield f"Judged: {_JUDGED[verdict.role]}"
    if verdict.frames is not None and verdict.frames.total > 1:
        yield f"Frames: {verdict.frames.judged} of {verdict.frames.total}"
    named = {category.code: category.score for category in verdict.categories}
    names = {category.code: category.name for category in policy.categories}
    if named:
        yield "Categories:"
        yield from _named(named, names)
    elif verdict.unsafe:
        yield "Categories: the model named none."
    scored = {code: score for code, score in verdict.category_scores.items() if score is not None}
    if all_scores and scored:
        yield "The probability of each category to be the first one named, if the answer is unsafe:"
        yield from _named(scored, names)
    for warning in verdict.warnings:
        yield f"Note: {warning}"
    yield _times(verdict)


def _times(verdict: Verdict) -> str:
    times = verdict.timings_ms
    parts = [f"reading the text {seconds(times.prefill)}"]
    if verdict.tiles:
        tiles = f"{verdict.tiles} tile{'s' if verdict.tiles > 1 else ''}, {verdict.vision_backend}"
        parts.insert(0, f"looking at the image ({tiles}) {seconds(times.preprocess + times.vision)}")
    if verdict.tokens.decoded:
        parts.append(f"categories {seconds(times.decode)}")
    return f"Time: {seconds(times.total)} ({', '.join(parts)}); loading the model {seconds(times.load)}"
