"""The inputs of ``scan``: folders, images, tables, URIs and standard input, and the texts that go with images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from visionward.cli.standard_input import DASH, read_bytes

if TYPE_CHECKING:
    from visionward.scan.image_files import PromptOf
    from visionward.scan.inputs import Inputs


def read_columns(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """The callback of ``--column``: key of a sample to column."""
    columns = {}
    for value in values:
        key, equals, column = value.partition("=")
        if not equals or not key or not column:
            raise click.BadParameter(f"{value!r} has another form than KEY=COLUMN, such as prompt=caption.")
        columns[key] = column
    return columns


def chosen_inputs(
    names: tuple[str, ...], prompt: str | None, captions: Path | None, columns: dict[str, str], *, sidecars: bool
) -> "Inputs":
    """What the options describe. Options that nothing would read are refused: what they name would not be judged.

    Raises:
        click.UsageError: if an input does not exist, or options exclude each other.
        DataError: if the captions or the names on standard input cannot be read.
    """
    from visionward.scan.inputs import Inputs  # noqa: PLC0415 - not needed for --help
    from visionward.scan.remote_files import is_uri  # noqa: PLC0415
    from visionward.scan.tables import check_columns  # noqa: PLC0415

    check_columns(columns)
    uris = tuple(name for name in names if is_uri(name))
    paths = _paths(tuple(name for name in names if not is_uri(name)))
    inputs = Inputs(paths, _prompt_of(prompt, captions, columns, sidecars=sidecars), columns, uris)
    if not inputs.has_images and (prompt is not None or captions is not None or sidecars):
        raise click.UsageError("--prompt, --captions and --sidecars are for images; tables have a column prompt")
    if columns and not inputs.has_tables and captions is None:
        raise click.UsageError("--column is for tables, and there is none")
    return inputs


def _paths(names: tuple[str, ...]) -> list[Path]:
    if names == (DASH,):
        data = read_bytes("INPUT")
        found = data.split(b"\0") if b"\0" in data else data.splitlines()
        return [Path(os.fsdecode(name)) for name in found if name]
    for name in names:
        if name == DASH:
            raise click.UsageError("- reads the names of all inputs, and excludes others")
        if not os.path.exists(name):  # noqa: PTH110 - a string needs no Path
            raise click.UsageError(f"{name} does not exist")
    return [Path(name) for name in names]


def _prompt_of(prompt: str | None, captions: Path | None, columns: dict[str, str], *, sidecars: bool) -> "PromptOf":
    from visionward.scan.image_files import caption_of, sidecar  # noqa: PLC0415 - not needed for --help
    from visionward.scan.tables import read_captions  # noqa: PLC0415

    if sum((prompt is not None, captions is not None, sidecars)) > 1:
        raise click.UsageError("--prompt, --captions and --sidecars exclude each other")
    if captions is not None:
        return caption_of(read_captions(captions, columns))
    return sidecar if sidecars else lambda _: prompt
