"""Commands that a command suggests when it is done. They work as pasted."""

from pathlib import Path

import click

from visionward.cli.model_folder import find_pair


def model_files(text: Path, mmproj: Path) -> tuple[Path, ...]:
    """What names a pair: its folder, if it is the only pair in it, else its two files."""
    try:
        alone = text.parent == mmproj.parent and find_pair(text.parent) == (text, mmproj)
    except click.UsageError:
        alone = False
    return (text.parent,) if alone else (text, mmproj)


def classify_command(*options: str | Path) -> str:
    """A ``classify`` command with a picture that comes with visionward.

    Args:
        options: those that name the model; none for the default model.
    """
    from visionward.demonstration import demo_samples_path  # noqa: PLC0415 - not needed for --help
    from visionward.machine.shell import visionward_command  # noqa: PLC0415
    from visionward.runtime.guard.samples import read_samples  # noqa: PLC0415

    picture = next(sample.image for sample in read_samples(demo_samples_path()) if sample.image is not None)
    return visionward_command("classify", *options, picture, "What is this?")
