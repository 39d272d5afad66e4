"""What the ``demo`` command says."""

import shlex
from collections.abc import Iterator, Sequence

from visionward.cli.verdict_text import coloured, seconds
from visionward.runtime.guard.demo_samples import TOY_NOTICE, DemoSample
from visionward.runtime.guard.verdict import Verdict


def opening_lines(count: int) -> Iterator[str]:
    """What comes before the samples."""
    yield f"Note: {TOY_NOTICE}"
    yield ""
    yield f"Classifying {count} packaged samples:"


def sample_lines(number: int, sample: DemoSample, verdict: Verdict) -> Iterator[str]:
    """A sample and what the guard says of it."""
    tiles = f", {verdict.tiles} tile{'s' if verdict.tiles > 1 else ''}" if verdict.tiles else ""
    picture = "no image" if sample.image is None else f"image {sample.image.name}{tiles}"
    yield ""
    yield f"{number}. {picture}"
    if sample.prompt:
        yield f"   user:      {sample.prompt}"
    if sample.response is not None:
        yield f"   assistant: {sample.response}"
    named = "".join(f", {category.code} {category.name} ({category.score:.2f})" for category in verdict.categories)
    time = seconds(verdict.timings_ms.total)
    yield f"   verdict:   {coloured(verdict.verdict)}{named}, score {verdict.score:.3f}, {time}"
    expected = " ".join([sample.label, ",".join(sample.categories)]).strip()
    yield f"   expected:  {expected}{'' if sample.matches(verdict) else '  <- differs'}"


def closing_lines(correct: int, samples: Sequence[DemoSample]) -> Iterator[str]:
    """The count, and what to try next."""
    yield ""
    yield f"{correct} of {len(samples)} as expected. {TOY_NOTICE[0].upper()}{TOY_NOTICE[1:]}"
    yield ""
    yield "What to try next:"
    picture = next((sample.image for sample in samples if sample.image is not None), None)
    example = "photo.jpg" if picture is None else shlex.quote(str(picture))
    yield "  the toy on a picture, as JSON:"
    yield f'    visionward classify --demo --image {example} --prompt "What is this?" --json'
    yield "  the real guard: get Llama-Guard-3-11B-Vision from Meta under its licence, and convert it:"
    yield "    visionward convert Llama-Guard-3-11B-Vision models"
    yield "  what this machine can do:"
    yield "    visionward doctor"
