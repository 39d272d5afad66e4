"""The ``export-onnx`` command."""

import shlex
from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.model_options import force_option
from visionward.cli.progress import progress_line
from visionward.quantities import size_text

# Spelled here too, because the command's help must not load the native library; a test keeps them equal.
ONNX_TYPES = ("f16", "f32", "int8")


@click.command("export-onnx", cls=Command)
@click.argument("mmproj", metavar="MMPROJ.gguf", type=click.Path(path_type=Path))
@click.argument("out", metavar="[TOWER.onnx]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--type",
    "weight_type",
    type=click.Choice(ONNX_TYPES, case_sensitive=False),
    default="f16",
    show_default=True,
    help="Type of the weights.",
)
@force_option
def export_onnx(mmproj: Path, out: Path | None, weight_type: str, force: bool) -> None:
    """Export the vision tower of an mmproj file as ONNX, for ONNX Runtime and OpenVINO.

    On a CPU they encode an image faster than ggml does. The tower goes beside the mmproj file unless TOWER.onnx is
    given, where it is found by itself; its weights go to TOWER.onnx.data. Export from an f16 or bf16 file, so that
    nothing is rounded twice, or let `visionward convert --onnx` do it.

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
    for path in (tower, data_path(tower)):
        click.echo(f"{path}  {size_text(path.stat().st_size)}")
    click.echo(
        f"\nNext: visionward classify --model TEXT.gguf --mmproj {shlex.quote(str(mmproj))} --image IMAGE "
        f"--onnx-tower {shlex.quote(str(tower))}",
        err=True,
    )
