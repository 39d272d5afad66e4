"""The ``logits`` command."""

import re
from pathlib import Path
from typing import Any

import click

from visionward.cli.command import Command
from visionward.cli.model_options import (
    EXISTING_FILE,
    device_options,
    force_option,
    pair_options,
    placement_options,
    resolve_pair,
    vision_options,
)
from visionward.names import DEFAULT_N_CTX

_TOKEN = re.compile(r"[0-9]{1,9}")


def _tokens(_ctx: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if not _TOKEN.fullmatch(part):
            raise click.BadParameter(f"{part!r} is not a token id; expected numbers separated by commas.")
    return [int(part) for part in parts]


@click.command(cls=Command)
@pair_options
@click.option("--image", metavar="FILE", type=EXISTING_FILE, help="An image; only its first frame is used.")
@click.option(
    "--pixels",
    metavar="FILE.npz",
    type=EXISTING_FILE,
    help="A preprocessed image instead: pixel_values (tiles x 3 x H x W) and aspect_ratio (tiles high, tiles wide).",
)
@click.option(
    "--tokens",
    metavar="IDS",
    required=True,
    callback=_tokens,
    help="Token ids, separated by commas; with an image exactly one of them is <|image|>.",
)
@click.option(
    "--out",
    metavar="OUT.npz",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
@click.option(
    "--exact", is_flag=True, help="No flash attention, float32 KV cache, padding computed in full, all on ggml."
)
@device_options
@placement_options
@vision_options
@click.option(
    "--ubatch",
    metavar="N",
    type=click.IntRange(2, 65536),
    default=512,
    show_default=True,
    help="Tokens per graph of the decoder.",
)
@force_option
def logits(
    model: Path | None,
    mmproj: Path | None,
    image: Path | None,
    pixels: Path | None,
    tokens: list[int],
    out: Path,
    exact: bool,
    force: bool,
    vision_backend: Any,
    **engine_options: Any,  # whatever the shared options are, the engine takes them under the same names
) -> None:
    """Write the logits of every position.

    OUT.npz contains logits (tokens x real rows of the head, float32) and, with an image, features (real tiles x tokens
    per tile x decoder width, after the projector) and pixels (real tiles x 3 x H x W).

    \b
    Example:
        visionward logits --model models --image photo.jpg --tokens 128000,128256,9906 --out logits.npz --exact
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    if image is not None and pixels is not None:
        raise click.UsageError("--image and --pixels exclude each other")
    if exact and vision_backend not in {"auto", "ggml"}:
        raise click.UsageError(f"--exact needs the vision backend ggml, not {vision_backend}")
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, has_demo=False)

    from visionward.diagnose.logits_files import holds_logits, read_tiles, write_logits  # noqa: PLC0415
    from visionward.formats.output_file import FileKind, Outputs, part_files  # noqa: PLC0415 - not needed for --help
    from visionward.runtime.engine import Engine  # noqa: PLC0415

    kind = FileKind("file of `visionward logits`", holds_logits)
    inputs = [path for path in (text_gguf, mmproj_gguf, image, pixels) if path is not None]
    outputs = Outputs((out,), kind, tuple(inputs), overwrite=force)
    shown = image if pixels is None else read_tiles(pixels)
    with part_files(outputs) as (part,):
        engine = Engine(
            text_gguf,
            mmproj_gguf,
            n_ctx=max(DEFAULT_N_CTX, len(tokens)),
            exact=exact,
            kernels="plain",
            vision_backend=vision_backend,
            **engine_options,
        )
        try:
            result = engine.logits(tokens, shown)
        finally:
            engine.close()
        write_logits(part.file, result)
    click.echo(f"{out}: logits {' x '.join(map(str, result.logits.shape))}")
