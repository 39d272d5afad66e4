"""The ``export-onnx`` command."""

from pathlib import Path
from typing import get_args

import click

from visionward.cli.command import Command
from visionward.cli.model_folder import find_pair
from visionward.cli.model_options import force_option
from visionward.cli.next_step import classify_command
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines
from visionward.errors import ModelFileError
from visionward.names import OnnxWeightType
from visionward.quantities import size_text


@click.command("export-onnx", cls=Command)
@click.argument("mmproj", metavar="MMPROJ.gguf", type=click.Path(path_type=Path))
@click.argument("out", metavar="[TOWER.onnx]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--type",
    "weight_type",
    type=click.Choice(get_args(OnnxWeightType), case_sensitive=False),
    default="f16",
    show_default=True,
    help="Type of the weights.",
)
@force_option
def export_onnx(mmproj: Path, out: Path | None, weight_type: str, force: bool) -> None:
    """Export the vision tower as ONNX, which is faster on CPUs.

    ONNX Runtime and OpenVINO encode an image faster than ggml does on a CPU. By default the tower is written beside the
    mmproj file, where visionward finds it. Its weights go to TOWER.onnx.data. Export from an f16 or bf16 file, so that
    the weights are rounded only once. `visionward convert --onnx` exports from the checkpoint.

    \b
    Examples:
        visionward export-onnx mmproj-guard-F16.gguf
        visionward export-onnx mmproj-guard-F16.gguf --type int8
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.convert.onnx_file import export_tower  # noqa: PLC0415 - not needed for --help
    from visionward.formats.onnx_format import data_path  # noqa: PLC0415

    with progress_line() as on_progress:
        tower = export_tower(
            mmproj,
            out,
            weight_type=weight_type.lower(),
            overwrite=force,
            on_progress=on_progress,
        )
    echo_lines(f"{path}  {size_text(path.stat().st_size)}" for path in (tower, data_path(tower)))
    command = _next_command(mmproj, tower)
    if command is not None:
        echo_lines(["", "Next, classify a picture with it:", f"    {command}"], err=True)


def _next_command(mmproj: Path, tower: Path) -> str | None:
    """A command that uses the tower; None if the text file is not in the mmproj file's folder."""
    try:
        text, _ = find_pair(mmproj.parent, mmproj)
    except (click.UsageError, ModelFileError):
        return None
    found_by_itself = tower.parent == mmproj.parent and tower.name.startswith("vision-")
    named: list[str | Path] = [] if found_by_itself else ["--onnx-tower", tower]
    return classify_command("--model", text, "--mmproj", mmproj, *named)
