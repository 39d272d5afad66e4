"""A verdict as people read it."""

from collections.abc import Iterator, Mapping

import click

from visionward.quantities import count_text, duration_text, size_text
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.verdict import Verdict

_COLOURS = {"safe": "green", "unsafe": "red"}
_JUDGED = {"User": "the user's message", "Agent": "the assistant's response"}


def coloured(verdict: str) -> str:
    """The word in capitals, in its colour; click leaves the colour out if the output is not a terminal."""
    return click.style(verdict.upper(), fg=_COLOURS[verdict], bold=True)


def _named(scores: Mapping[str, float], names: Mapping[str, str]) -> Iterator[str]:
    width = max((len(names[code]) for code in scores), default=0)
    for code, score in scores.items():
        yield f"  {code:<4} {names[code]:<{width}}  {score:.3f}"


def verdict_lines(verdict: Verdict, policy: Policy, threshold: float, *, all_scores: bool = False) -> Iterator[str]:
    """A short report.

    Args:
        verdict: the verdict.
        policy: the categories in force, for their names.
        threshold: the verdict is unsafe from this P(unsafe) on.
        all_scores: list every category in force instead of those that the model named.
    """
    yield f"{coloured(verdict.verdict)}: P(unsafe) {verdict.score:.3f}, threshold {threshold:g}"
    yield f"Judged: {_JUDGED[verdict.role]}"
    if verdict.frames is not None and verdict.frames.total > 1:
        yield f"Frames: {verdict.frames.judged} of {verdict.frames.total}"
    named = {category.code: category.score for category in verdict.categories}
    names = {category.code: category.name for category in policy.categories}
    if named:
        yield "Categories:"
        yield from _named(named, names)
    elif verdict.unsafe:
        yield "Categories: none named by the model"
    scored = {code: score for code, score in verdict.category_scores.items() if score is not None}
    if all_scores and scored:
        yield "P(category is named first | unsafe):"
        yield from _named(scored, names)
    for warning in verdict.warnings:
        yield f"Note: {warning}"
    yield f"Time: {_times(verdict)}"
    if not verdict.devices.on_cpu:
        yield f"Devices: {verdict.devices.names}; {size_text(verdict.devices.memory_bytes)} of GPU memory"


def _times(verdict: Verdict) -> str:
    times = verdict.timings_ms
    parts = [f"prompt {duration_text(times.prefill)}"]
    if verdict.tiles:
        where = f"{count_text(verdict.tiles, 'tile')} on {verdict.vision_backend}"
        parts.insert(0, f"vision {duration_text(times.preprocess + times.vision)}, {where}")
    if verdict.tokens.decoded:
        parts.append(f"categories {duration_text(times.decode)}")
    return f"{duration_text(times.total)} ({'; '.join(parts)}); model loaded in {duration_text(times.load)}"
