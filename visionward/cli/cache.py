"""The ``cache`` command."""

import json

import click

from visionward.cli.command import Command
from visionward.cli.default_model import read_default_model
from visionward.cli.wrapping import echo_lines
from visionward.errors import ModelFileError
from visionward.quantities import size_text


@click.command(cls=Command)
@click.argument("action", metavar="[clear]", required=False, type=click.Choice(["clear"]))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="With `clear`: remove everything but the ONNX towers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cache(action: str | None, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """List the cache, or remove files.

    The cache has files that visionward writes again when they are needed: the converted demonstration guard, results of
    the kernel probe, compiled vision towers, and which model files matched their checksums. `clear` removes those with
    the given names. ONNX towers beside the default model and in the folder for models are listed too, and removed only
    by name, because an export takes minutes.

    \b
    Examples:
        visionward cache
        visionward cache clear kernels
        visionward cache clear --all
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.diagnose.written_files import TOWERS, remove, written_files  # noqa: PLC0415 - not needed for --help
    from visionward.paths import cache_folder  # noqa: PLC0415

    try:
        default = read_default_model()
    except ModelFileError:
        # This command must work when the default model is gone.
        default = None
    found = {written.name: written for written in written_files([] if default is None else [default[1].parent])}
    if action is None:
        if everything:
            raise click.UsageError("--all is an option of `visionward cache clear`")
        shown = list(found.values())
    else:
        unknown = [name for name in names if name not in found]
        if unknown:
            raise click.UsageError(f"there is no {unknown[0]!r} to remove; choose among {', '.join(found)}")
        if everything == bool(names):
            raise click.UsageError(f"name what to remove ({', '.join(found)}), or use --all")
        shown = [written for name, written in found.items() if (name in names or (everything and name != TOWERS))]
        for written in shown:
            remove(written)
    if as_json:
        values = [
            {"name": part.name, "nbytes": part.nbytes, "paths": [str(path) for path in part.paths]} for part in shown
        ]
        click.echo(json.dumps({"folder": str(cache_folder()), "removed": action is not None, "files": values}))
        return
    sizes = [f"  {written.name:<12}{size_text(written.nbytes):<12}{written.purpose}" for written in shown]
    echo_lines([f"{'Cache' if action is None else 'Removed from the cache'}: {cache_folder()}", *sizes])
