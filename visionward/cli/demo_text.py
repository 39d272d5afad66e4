"""What the ``demo`` command prints."""

from collections.abc import Iterator, Sequence

from visionward.cli.verdict_text import coloured
from visionward.machine.shell import visionward_command
from visionward.quantities import count_text, duration_text
from visionward.runtime.guard.demo_samples import TOY_NOTICE, DemoSample
from visionward.runtime.guard.verdict import Verdict


def opening_lines(count: int) -> Iterator[str]:
    """What comes before the samples."""
    yield f"Note: {TOY_NOTICE}"
    yield ""
    yield f"Classifying {count_text(count, 'packaged sample')}:"


def sample_lines(number: int, sample: DemoSample, verdict: Verdict) -> Iterator[str]:
    """A sample and its verdict."""
    tiles = f", {count_text(verdict.tiles, 'tile')}" if verdict.tiles else ""
    yield ""
    yield f"{number}. {'no image' if sample.image is None else f'image {sample.image.name}{tiles}'}"
    if sample.prompt:
        yield f"   user:       {sample.prompt}"
    if sample.response is not None:
        yield f"   assistant:  {sample.response}"
    named = "".join(f", {category.code} {category.name} ({category.score:.2f})" for category in verdict.categories)
    time = duration_text(verdict.timings_ms.total)
    yield f"   verdict:    {coloured(verdict.verdict)}{named}, P(unsafe) {verdict.score:.3f}, {time}"
    expected = " ".join([sample.label, ",".join(sample.categories)]).strip()
    yield f"   expected:   {expected}{'' if sample.matches(verdict) else '  <- differs'}"


def closing_lines(correct: int, samples: Sequence[DemoSample]) -> Iterator[str]:
    """The count, and what to try next. Lines with four spaces in front are commands that work as pasted."""
    yield ""
    yield f"{correct} of {len(samples)} as expected. {TOY_NOTICE[0].upper()}{TOY_NOTICE[1:]}"
    picture = next((sample.image for sample in samples if sample.image is not None), None)
    if picture is not None:
        yield ""
        yield "Next: classify one picture, as JSON:"
        yield f"    {visionward_command('classify', '--demo', picture, 'What is this?', '--json')}"
    yield ""
    yield "What this machine can do:"
    yield f"    {visionward_command('doctor')}"
    yield ""
    yield (
        "For real verdicts, get Llama-Guard-3-11B-Vision from Meta under its licence (see the README), and convert it "
        "into a folder:"
    )
    yield f"    {visionward_command('convert', 'Llama-Guard-3-11B-Vision', 'models')}"
