"""The ``use`` command."""

from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.default_model import clear_default_model, read_default_model, write_default_model
from visionward.cli.model_folder import find_pair
from visionward.cli.wrapping import echo_lines


@click.command(cls=Command)
@click.argument("model", metavar="[DIR|TEXT.gguf]", required=False, type=click.Path(path_type=Path))
@click.argument("mmproj", metavar="[MMPROJ.gguf]", required=False, type=click.Path(path_type=Path))
@click.option("--none", "clear", is_flag=True, help="Have no default model.")
def use(model: Path | None, mmproj: Path | None, clear: bool) -> None:
    """Choose the default model, or show it.

    The default model is used by every command that takes a model, if neither --model nor VISIONWARD_MODEL names another
    one. DIR is a folder with one text file and one mmproj file, as `visionward convert` writes them; otherwise name the
    two files. They are checked, and remembered by their paths. Without an argument the default model is shown.

    \b
    Examples:
        visionward use models
        visionward use guard-text-Q4_K_M.gguf mmproj-guard-Q8_0.gguf
        visionward use --none
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    if clear:
        if model is not None:
            raise click.UsageError("--none excludes a model")
        clear_default_model()
        click.echo("There is no default model now.")
        return
    if model is None:
        pair = read_default_model()
        if pair is None:
            click.echo("There is no default model. Choose one: visionward use DIR")
            return
    else:
        pair = _checked(model, mmproj)
        write_default_model(*pair)
    echo_lines(["Default model:", f"  text    {pair[0].absolute()}", f"  mmproj  {pair[1].absolute()}"])


def _checked(model: Path, mmproj: Path | None) -> tuple[Path, Path]:
    """The pair that was named; its files exist and belong together."""
    from visionward.formats.pair_files import PairFiles  # noqa: PLC0415 - not needed for --help

    if model.is_dir():
        pair = find_pair(model, mmproj)
    elif mmproj is None:
        raise click.UsageError(
            f"{model} is not a folder; name a folder, or two files: visionward use TEXT.gguf MMPROJ.gguf"
        )
    else:
        pair = model, mmproj
    PairFiles.open(*pair)
    return pair
