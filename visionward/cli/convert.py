"""The ``convert`` command."""

import shlex
from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.export_onnx import ONNX_TYPES
from visionward.cli.model_options import force_option
from visionward.cli.progress import progress_line
from visionward.cli.quantize import TYPES
from visionward.quantities import size_text

_TYPE = click.Choice(TYPES, case_sensitive=False)


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--text-type", metavar="TYPE", type=_TYPE, default="f16", show_default=True, help="Type of the text file."
)
@click.option(
    "--mmproj-type", metavar="TYPE", type=_TYPE, default="f16", show_default=True, help="Type of the mmproj file."
)
@click.option(
    "--onnx",
    "onnx_type",
    type=click.Choice(ONNX_TYPES, case_sensitive=False),
    help="Export the vision tower as ONNX too, with weights of this type: faster on a CPU.",
)
@click.option("--name", help="The model's name in both file names.  [default: the checkpoint folder's name]")
@force_option
def convert(
    checkpoint: Path,
    out_dir: Path,
    text_type: str,
    mmproj_type: str,
    onnx_type: str | None,
    name: str | None,
    force: bool,
) -> None:
    """Convert a Hugging Face checkpoint into a text GGUF and an mmproj GGUF.

    CHECKPOINT is the folder of any MllamaForConditionalGeneration model: config.json, safetensors files, tokenizer and
    preprocessor settings. OUT_DIR is made if it does not exist. TYPE is one of f32, f16, bf16, q8_0, q6_k, q5_k_m,
    q4_k_m, q4_k_s, iq4_xs, q4_0; for those behind q8_0 the text file is first written unquantized, which takes 16 GB
    of disk space for a while with an 11B model.

    \b
    Examples:
        visionward convert Llama-Guard-3-11B-Vision models --text-type q4_k_m --mmproj-type q8_0
        visionward convert Llama-Guard-3-11B-Vision models --text-type q4_k_m --mmproj-type q4_k_m --onnx int8
        visionward convert Llama-Guard-3-11B-Vision models --text-type bf16 --mmproj-type bf16
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.convert import convert_checkpoint  # noqa: PLC0415 - the native library is not needed for --help
    from visionward.formats.gguf_header import GgufHeader  # noqa: PLC0415
    from visionward.formats.onnx_format import data_path  # noqa: PLC0415
    from visionward.quant.quantize import find_recipe, nearest_notes  # noqa: PLC0415

    with progress_line() as on_progress:
        pair = convert_checkpoint(
            checkpoint,
            out_dir,
            text_type=text_type,
            mmproj_type=mmproj_type,
            onnx_type=None if onnx_type is None else onnx_type.lower(),
            name=name,
            overwrite=force,
            on_progress=on_progress,
        )
    for path, kind in ((pair.text, text_type), (pair.mmproj, mmproj_type)):
        click.echo(f"{path}  {size_text(path.stat().st_size)}")
        for note in nearest_notes(GgufHeader(path), find_recipe(kind)):
            click.echo(f"note: {note}", err=True)
    if pair.onnx_tower is not None:
        for path in (pair.onnx_tower, data_path(pair.onnx_tower)):
            click.echo(f"{path}  {size_text(path.stat().st_size)}")
    files = f"--model {shlex.quote(str(pair.text))} --mmproj {shlex.quote(str(pair.mmproj))}"
    click.echo(f"\nNext: visionward classify {files} --image IMAGE", err=True)
