"""The ``verify`` command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visionward.cli.command import Command
from visionward.cli.model_options import demo_option, device_options, pair_options, placement_options, resolve_pair
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines
from visionward.quantities import percent_text, size_text

if TYPE_CHECKING:
    from visionward.diagnose.verification import VerifiedFile


@click.command(cls=Command)
@pair_options
@demo_option
@click.option(
    "--onnx-tower",
    metavar="TOWER.onnx",
    type=click.Path(path_type=Path),
    envvar="VISIONWARD_ONNX_TOWER",
    show_envvar=True,
    help="An ONNX tower of the pair, which is checked and used to encode the pictures.  [default: check all towers of "
    "the pair in the mmproj file's folder]",
)
@click.option("--files-only", is_flag=True, help="Check only the files, without loading the model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@device_options
@placement_options
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    model: Path | None,
    mmproj: Path | None,
    demo: bool,
    onnx_tower: Path | None,
    files_only: bool,
    as_json: bool,
    **engine_options: Any,  # the engine has parameters of the same names
) -> None:
    """Check that a model's files are intact, and that it sees images.

    Every byte is read and compared with the checksums that `visionward convert` and `visionward quantize` wrote, even
    if the files were checked before. Names, shapes and ranges are checked as at every load. Then two different pictures
    must give different logits.

    Exit codes: 0 if the model is intact; 1 if a file has no checksums, so that damage may go undetected; 2 for
    damaged files and other errors.

    \b
    Examples:
        visionward verify --model guard-text-Q4_K_M.gguf --mmproj mmproj-guard-Q8_0.gguf
        visionward verify --demo
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, demo=demo)

    from visionward.diagnose.verification import picture_difference, verify_files  # noqa: PLC0415
    from visionward.runtime.engine import Engine  # noqa: PLC0415 - the native library is not needed for --help

    with progress_line() as on_progress:
        files = verify_files(text_gguf, mmproj_gguf, onnx_tower, on_progress)
    difference = None
    if not files_only:
        with progress_line() as on_progress:
            engine = Engine(
                text_gguf,
                mmproj_gguf,
                kernels="plain",
                onnx_tower=onnx_tower,
                on_progress=on_progress,
                **engine_options,
            )
            try:
                difference = picture_difference(engine)
            finally:
                engine.close()
    checksums = all(file.checksums for file in files)
    if as_json:
        found = [{"file": str(file.path), "nbytes": file.nbytes, "checksums": file.checksums} for file in files]
        click.echo(json.dumps({"checksums": checksums, "files": found, "picture_difference": difference}))
    else:
        echo_lines(_lines(files, difference))
    if not checksums:
        ctx.exit(1)


def _lines(files: "tuple[VerifiedFile, ...]", difference: float | None) -> Iterator[str]:
    for file in files:
        state = "intact" if file.checksums else "no checksums: damage may go undetected"
        yield f"{file.path}  {size_text(file.nbytes)}  {state}"
    yield "The files belong together."
    if difference is not None:
        yield f"The model sees images: two different pictures change the logits by {percent_text(difference)}."
