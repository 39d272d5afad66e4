"""The ``convert`` command."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from visionward.convert import convert_checkpoint
from visionward.quant.tensor_types import RECIPES

_TYPE = click.Choice(tuple(RECIPES), case_sensitive=False)


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label="converting", file=sys.stderr) as bar:

        def update(done: int, total: int, tensor: str) -> None:
            bar.length, bar.label = total, f"converting {tensor:<28}"
            bar.update(done - bar.pos)

        yield update


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--text-type", type=_TYPE, default="f16", show_default=True, help="Element type of the text file.")
@click.option("--mmproj-type", type=_TYPE, default="f16", show_default=True, help="Element type of the mmproj file.")
@click.option("--name", help="The model's name in both file names.  [default: the checkpoint folder's name]")
def convert(checkpoint: Path, out_dir: Path, text_type: str, mmproj_type: str, name: str | None) -> None:
    """Convert a Hugging Face checkpoint into a text GGUF and an mmproj GGUF.

    CHECKPOINT is the folder of any MllamaForConditionalGeneration model: config.json, safetensors files, tokenizer and
    preprocessor settings. OUT_DIR is made if it does not exist.

    \b
    Example:
        visionward convert Llama-Guard-3-11B-Vision models
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    with _progress() as progress:
        pair = convert_checkpoint(
            checkpoint, out_dir, text_type=text_type, mmproj_type=mmproj_type, name=name, progress=progress
        )
    for path in (pair.text, pair.mmproj):
        click.echo(f"{path}  {_size(path)}")
    files = f"--model {shlex.quote(str(pair.text))} --mmproj {shlex.quote(str(pair.mmproj))}"
    click.echo(f"\nNext: visionward classify {files} --image IMAGE", err=True)
