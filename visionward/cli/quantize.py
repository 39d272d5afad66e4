"""The ``quantize`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from visionward.cli.command import Command
from visionward.cli.model_options import EXISTING_FILE, force_option
from visionward.cli.progress import progress_line
from visionward.names import FileType
from visionward.quantities import size_text

if TYPE_CHECKING:
    from visionward.quant.tensor_types import TypeOverride

TYPES: tuple[str, ...] = get_args(FileType)


def _overrides(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> "list[TypeOverride]":
    if not values:
        return []
    from visionward.quant.tensor_types import TypeOverride  # noqa: PLC0415 - not needed for --help

    try:
        return [TypeOverride.parse(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(cls=Command)
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.gguf", type=click.Path(path_type=Path))
@click.argument("kind", metavar="TYPE", type=click.Choice(TYPES, case_sensitive=False))
@click.option("--imatrix", metavar="FILE.gguf", type=EXISTING_FILE, help="An importance matrix: visionward imatrix.")
@click.option(
    "--tensor-type",
    "overrides",
    metavar="PATTERN=TYPE",
    multiple=True,
    callback=_overrides,
    help="The type of the matrices whose name holds a match of a regular expression; repeatable, the first counts.",
)
@click.option("--threads", metavar="N", type=click.IntRange(1, 512), help="CPU threads.  [default: all cores]")
@click.option("--allow-requantize", is_flag=True, help="Take a file that is quantized already; it gets worse.")
@force_option
def quantize(
    source: Path,
    target: Path,
    kind: str,
    imatrix: Path | None,
    overrides: "list[TypeOverride]",
    threads: int | None,
    allow_requantize: bool,
    force: bool,
) -> None:
    """Quantize the text file or the mmproj file of a pair.

    TYPE is one of f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_k_s, iq4_xs, q4_0. IN.gguf is what `visionward
    convert` wrote in f32, f16 or bf16. In the mmproj file TYPE is for the cross-attention layers: the vision tower is
    never made smaller than q8_0 unless --tensor-type says so.

    \b
    Examples:
        visionward quantize guard-text-BF16.gguf guard-text-Q4_K_M.gguf q4_k_m --imatrix imatrix.gguf
        visionward quantize mmproj-guard-BF16.gguf mmproj-guard-Q8_0.gguf q8_0
        visionward quantize mmproj-guard-BF16.gguf small.gguf q4_k_m --tensor-type "v\\.blk\\..*=q6_k"
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.quant.quantize import quantize_file  # noqa: PLC0415 - the native library is not needed for --help

    with progress_line() as on_progress:
        result = quantize_file(
            source,
            target,
            kind,
            imatrix=imatrix,
            threads=threads,
            overrides=overrides,
            allow_requantize=allow_requantize,
            overwrite=force,
            on_progress=on_progress,
        )
    types = ", ".join(f"{name} {count}" for name, count in result.types.items())
    click.echo(f"{result.path}  {size_text(result.nbytes)} from {size_text(result.source_nbytes)}  ({types})")
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
