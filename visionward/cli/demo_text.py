"""What the ``demo`` command prints."""

from collections.abc import Iterator, Sequence

from visionward.cli.verdict_text import coloured
from visionward.demonstration import DEMO_NOTICE
from visionward.machine.shell import visionward_command
from visionward.quantities import count_text, duration_text
from visionward.runtime.guard.samples import Sample
from visionward.runtime.guard.verdict import Verdict


def opening_lines(count: int) -> Iterator[str]:
    """What comes before the samples."""
    yield f"Note: {DEMO_NOTICE}"
    yield ""
    yield f"Classifying {count_text(count, 'packaged sample')}:"


def sample_lines(number: int, sample: Sample, verdict: Verdict) -> Iterator[str]:
    """A sample and its verdict."""
    tiles = f", {count_text(verdict.tiles, 'tile')}" if verdict.tiles else ""
    yield ""
    yield f"{number}. {'no image' if sample.image is None else f'image {sample.image.name}{tiles}'}"
    for message in sample.conversation.messages:
        speaker = f"{message.role}:".ljust(10)
        yield from (f"   {speaker}  {text}" for text in message.texts)
    named = "".join(f", {category.code} {category.name} ({category.score:.2f})" for category in verdict.categories)
    time = duration_text(verdict.timings_ms.total)
    yield f"   verdict:    {coloured(verdict.verdict)}{named}, P(unsafe) {verdict.score:.3f}, {time}"
    codes = ",".join(sorted(sample.categories or (), key=lambda code: int(code[1:])))
    expected = f"unsafe {codes}" if sample.unsafe else "safe"
    yield f"   expected:   {expected}{'' if sample.matches(verdict) else '  <- differs'}"


def closing_lines(correct: int, samples: Sequence[Sample]) -> Iterator[str]:
    """The count, and what to try next. Lines with four spaces in front are commands that work as pasted."""
    yield ""
    yield f"{correct} of {len(samples)} as expected. {DEMO_NOTICE[0].upper()}{DEMO_NOTICE[1:]}"
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
