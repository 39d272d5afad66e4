"""The ``convert`` command."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from visionward.cli.command import Command
from visionward.cli.model_options import force_option
from visionward.cli.next_step import classify_command, model_files
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines
from visionward.names import FileType, OnnxWeightType, PresetName
from visionward.quantities import size_text

if TYPE_CHECKING:
    from visionward.convert import ConvertedPair
    from visionward.convert.presets import FileTypes

_NO_TOWER = "none"
_TYPE = click.Choice(get_args(FileType), case_sensitive=False)


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(get_args(PresetName)),
    default="laptop",
    show_default=True,
    help="Types that go well together. laptop: q4_k_m files, and an int8 ONNX tower unless llama.cpp computes on a GPU "
    "here. f16: 16-bit files, no ONNX tower.",
)
@click.option("--text-type", metavar="TYPE", type=_TYPE, help="Type of the text file.  [default: the preset's]")
@click.option("--mmproj-type", metavar="TYPE", type=_TYPE, help="Type of the mmproj file.  [default: the preset's]")
@click.option(
    "--onnx",
    "onnx_type",
    type=click.Choice((*get_args(OnnxWeightType), _NO_TOWER), case_sensitive=False),
    help="Type of the ONNX tower, which is faster than ggml on a CPU.  [default: the preset's; none if another type "
    "is given]",
)
@click.option("--name", help="The model's name in the file names.  [default: the checkpoint folder's name]")
@force_option
def convert(
    checkpoint: Path,
    out_dir: Path,
    preset: PresetName,
    text_type: FileType | None,
    mmproj_type: FileType | None,
    onnx_type: str | None,
    name: str | None,
    force: bool,
) -> None:
    """Convert a Hugging Face checkpoint into GGUF and ONNX files.

    Writes a text GGUF, an mmproj GGUF and, for CPUs, the vision tower as ONNX.

    CHECKPOINT is the folder of any MllamaForConditionalGeneration model: config.json, safetensors files, tokenizer and
    preprocessor settings. OUT_DIR is created if it does not exist. TYPE is one of f32, f16, bf16, q8_0, q6_k, q5_k_m,
    q4_k_m, q4_k_s, iq4_xs, q4_0. For types after q8_0 the text file is written unquantized first: for an 11B model
    this takes 16 GB of disk space until the conversion ends.

    \b
    Examples:
        visionward convert Llama-Guard-3-11B-Vision models
        visionward convert Llama-Guard-3-11B-Vision models --preset f16
        visionward convert Llama-Guard-3-11B-Vision models --text-type q4_k_m --mmproj-type q8_0
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.convert import convert_checkpoint  # noqa: PLC0415 - the native library is not needed for --help
    from visionward.convert.presets import FileTypes, preset_types  # noqa: PLC0415

    types, note = preset_types(preset)
    if text_type or mmproj_type or onnx_type:
        onnx = None if onnx_type is None else _onnx_type(onnx_type)
        types, note = FileTypes(text_type or types.text, mmproj_type or types.mmproj, onnx), None
    elif preset == "laptop":
        note = note or "for 16-bit files: --preset f16"
    echo_lines([f"Converting into: {_types_text(types)}{f' ({note})' if note else ''}"], err=True)
    with progress_line() as on_progress:
        pair = convert_checkpoint(
            checkpoint,
            out_dir,
            text_type=types.text,
            mmproj_type=types.mmproj,
            onnx_type=types.onnx,
            name=name,
            overwrite=force,
            on_progress=on_progress,
        )
    echo_lines(f"{path}  {size_text(path.stat().st_size)}" for path in _files(pair))
    echo_lines([*_type_notes(pair, types), *_memory_lines(pair), "", *_next_lines(pair)], err=True)


def _onnx_type(name: str) -> OnnxWeightType | None:
    return next((known for known in get_args(OnnxWeightType) if known == name.lower()), None)


def _types_text(types: "FileTypes") -> str:
    tower = f"{types.onnx} ONNX tower" if types.onnx else "no ONNX tower"
    return f"{types.text} text file, {types.mmproj} mmproj file, {tower}"


def _files(pair: "ConvertedPair") -> list[Path]:
    from visionward.formats.onnx_format import data_path  # noqa: PLC0415 - not needed for --help

    tower = [] if pair.onnx_tower is None else [pair.onnx_tower, data_path(pair.onnx_tower)]
    return [pair.text, pair.mmproj, *tower]


def _type_notes(pair: "ConvertedPair", types: "FileTypes") -> Iterator[str]:
    """Matrices that could not have the type that was asked for."""
    from visionward.formats.gguf_header import GgufHeader  # noqa: PLC0415 - not needed for --help
    from visionward.quant.quantize import find_recipe, nearest_notes  # noqa: PLC0415

    for path, file_type in ((pair.text, types.text), (pair.mmproj, types.mmproj)):
        for note in nearest_notes(GgufHeader(path), find_recipe(file_type)):
            yield f"note: {note}"


def _memory_lines(pair: "ConvertedPair") -> Iterator[str]:
    """Memory at run time, and whether this machine has it."""
    from visionward.convert.presets import memory_need  # noqa: PLC0415 - not needed for --help
    from visionward.machine.processor import read_memory  # noqa: PLC0415

    need = memory_need(pair)
    most = need.ggml if need.onnx is None else need.onnx
    less = "" if need.onnx is None else f", or {size_text(need.ggml)} without the ONNX tower (--vision-backend ggml)"
    yield f"Memory for a classification on a CPU: up to {size_text(most)}{less}"
    memory = read_memory()
    installed = min((amount for amount in (memory.total, memory.limit) if amount is not None), default=None)
    if installed is not None and installed < need.ggml:
        yield f"note: this machine has {size_text(installed)}: classifications will be slow, or fail."
    elif installed is not None and installed < most:
        yield f"note: this machine has {size_text(installed)}: use --vision-backend ggml."


def _next_lines(pair: "ConvertedPair") -> Iterator[str]:
    from visionward.machine.shell import visionward_command  # noqa: PLC0415 - not needed for --help

    yield "Next, make it the default model and classify a picture:"
    yield f"    {visionward_command('use', *model_files(pair.text, pair.mmproj))}"
    yield f"    {classify_command()}"
