"""The ``demo`` command."""

from typing import Any

import click

from visionward.cli.command import Command
from visionward.cli.model_options import device_options, placement_options
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines


@click.command(cls=Command)
@device_options
@placement_options
def demo(**engine_options: Any) -> None:
    """Classify the packaged samples with a small demonstration guard.

    The demonstration guard has the architecture of Llama Guard 3 11B Vision and fits into a few megabytes. It is
    converted at first use. It is a toy model for checking the installation, not a safety classifier.

    \b
    Example:
        visionward demo
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.cli.demo_text import closing_lines, opening_lines, sample_lines  # noqa: PLC0415 - not for --help
    from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415
    from visionward.demonstration import demo_samples_path  # noqa: PLC0415
    from visionward.runtime.guard.guard import Guard  # noqa: PLC0415
    from visionward.runtime.guard.samples import read_samples  # noqa: PLC0415

    samples = read_samples(demo_samples_path())
    pair = demo_pair()
    correct = 0
    with Guard.load(pair.text, pair.mmproj, **engine_options) as guard:
        echo_lines(opening_lines(len(samples)))
        for number, sample in enumerate(samples, start=1):
            with progress_line() as on_progress:
                verdict = guard.classify(sample.conversation, on_progress=on_progress)
            correct += sample.matches(verdict)
            echo_lines(sample_lines(number, sample, verdict))
    echo_lines(closing_lines(correct, samples))
