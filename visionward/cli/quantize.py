"""The ``quantize`` command."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from visionward.cli.command import Command
from visionward.cli.model_options import EXISTING_FILE, force_option
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines
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
@click.argument("file_type", metavar="TYPE", type=click.Choice(TYPES, case_sensitive=False))
@click.option(
    "--imatrix", metavar="FILE.gguf", type=EXISTING_FILE, help="An importance matrix of `visionward imatrix`."
)
@click.option(
    "--tensor-type",
    "overrides",
    metavar="PATTERN=TYPE",
    multiple=True,
    callback=_overrides,
    help="The type of the matrices whose name matches a regular expression. Repeatable; the first match applies.",
)
@click.option("--threads", metavar="N", type=click.IntRange(1, 512), help="CPU threads.  [default: all cores]")
@click.option(
    "--allow-requantize", is_flag=True, help="Accept a file that is already quantized. This adds to the error."
)
@force_option
def quantize(
    source: Path,
    target: Path,
    file_type: str,
    imatrix: Path | None,
    overrides: "list[TypeOverride]",
    threads: int | None,
    allow_requantize: bool,
    force: bool,
) -> None:
    """Quantize one of a pair's files.

    TYPE is one of f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_k_s, iq4_xs, q4_0. IN.gguf is a file of type f32, f16
    or bf16 that `visionward convert` wrote. In an mmproj file TYPE applies to the cross-attention layers. The vision
    tower is at least q8_0, unless --tensor-type sets another type.

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
            file_type,
            imatrix=imatrix,
            threads=threads,
            overrides=overrides,
            allow_requantize=allow_requantize,
            overwrite=force,
            on_progress=on_progress,
        )
    types = ", ".join(f"{name} {count}" for name, count in result.types.items())
    sizes = f"{size_text(result.nbytes)} from {size_text(result.source_nbytes)}"
    echo_lines([f"{result.path}  {sizes}  ({types})"])
    echo_lines((f"note: {note}" for note in result.notes), err=True)
