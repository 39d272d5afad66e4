"""The ``imatrix`` command."""

from collections.abc import Callable
from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.model_options import EXISTING_FILE, device_options, force_option, pair_options, resolve_pair
from visionward.cli.progress import progress_line
from visionward.progress import OnProgress, Progress


def _sample_progress(on_progress: OnProgress | None) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(Progress("importance matrix", done, total, "samples"))


@click.command(cls=Command)
@pair_options
@click.option(
    "--data",
    metavar="FILE.jsonl",
    type=EXISTING_FILE,
    required=True,
    help="Calibration samples, a JSON object a line: image, prompt and response or messages, label, categories.",
)
@click.option(
    "--out", metavar="FILE.gguf", type=click.Path(path_type=Path), required=True, help="The importance matrix."
)
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Read the first N samples only.")
@device_options
@force_option
def imatrix(
    model: Path | None,
    mmproj: Path | None,
    data: Path,
    out: Path,
    limit: int | None,
    threads: int | None,
    gpu_layers: int | None,
    force: bool,
) -> None:
    """Gather an importance matrix over calibration samples, for `visionward quantize --imatrix`.

    Judges the samples and notes how large the numbers are that go into every matrix of the decoder, the cross-attention
    layers and the vision tower, so that quantizing can spare the columns that matter. Take samples like those that the
    guard will see, some hundred, and none that it will be measured on. The file has llama.cpp's form: its part about
    the text file works in llama-quantize, too.

    \b
    Example:
        visionward imatrix --model guard-text-BF16.gguf --mmproj mmproj-guard-BF16.gguf \\
            --data calibration.jsonl --out imatrix.gguf
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, has_demo=False)

    from visionward.formats.imatrix_file import write_imatrix  # noqa: PLC0415
    from visionward.formats.output_file import GGUF, Outputs  # noqa: PLC0415
    from visionward.quant.activations import gather  # noqa: PLC0415 - the native library is not needed for --help
    from visionward.runtime.engine import Engine  # noqa: PLC0415
    from visionward.runtime.guard.samples import read_samples  # noqa: PLC0415

    samples = read_samples(data)[:limit]
    images = [image for sample in samples for image in sample.conversation.images if isinstance(image, Path)]
    inputs = (data, text_gguf, mmproj_gguf, *images)
    # Better now than after an hour of reading.
    Outputs((out,), GGUF, inputs, overwrite=force).check()
    # Only ggml lets its products be seen.
    engine = Engine(text_gguf, mmproj_gguf, threads=threads, gpu_layers=gpu_layers, vision_backend="ggml")
    try:
        with progress_line() as on_progress:
            gathered = gather(engine, samples, _sample_progress(on_progress))
    finally:
        engine.close()
    tokens = round(gathered.tokens / gathered.prompts)
    write_imatrix(
        out,
        gathered.statistics,
        dataset=data.name,
        samples=gathered.prompts,
        sample_tokens=tokens,
        inputs=inputs,
        overwrite=force,
    )
    click.echo(f"{out}  {len(gathered.statistics)} matrices, {gathered.prompts} prompts, {gathered.tokens} tokens")
