"""The ``imatrix`` command."""

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
)
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines
from visionward.quantities import count_text


@click.command(cls=Command)
@pair_options
@click.option(
    "--data",
    metavar="FILE.jsonl",
    type=EXISTING_FILE,
    required=True,
    help="Calibration samples, one JSON object per line: image, prompt and response or messages, label, categories.",
)
@click.option(
    "--out", metavar="FILE.gguf", type=click.Path(path_type=Path), required=True, help="The importance matrix."
)
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Use only the first N samples.")
@device_options
@placement_options
@force_option
def imatrix(
    model: Path | None,
    mmproj: Path | None,
    data: Path,
    out: Path,
    limit: int | None,
    force: bool,
    **engine_options: Any,  # whatever the shared options are, the engine takes them under the same names
) -> None:
    """Compute an importance matrix for `visionward quantize`.

    Evaluates the samples and sums up the squared inputs of every matrix of the decoder, the cross-attention layers and
    the vision tower, so that quantization can give priority to the columns that matter. Use a few hundred samples like
    those that the guard will see, and none that it will be evaluated on. The file has llama.cpp's format, so that
    llama-quantize can use it for the text file.

    \b
    Example:
        visionward imatrix --model guard-text-BF16.gguf --mmproj mmproj-guard-BF16.gguf \\
            --data calibration.jsonl --out imatrix.gguf
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, has_demo=False)

    from visionward.formats.imatrix_file import write_imatrix  # noqa: PLC0415
    from visionward.formats.output_file import GGUF, Outputs  # noqa: PLC0415
    from visionward.quant.activations import compute_importance  # noqa: PLC0415 - the native library is not needed for --help
    from visionward.runtime.engine import Engine  # noqa: PLC0415
    from visionward.runtime.guard.samples import read_samples  # noqa: PLC0415

    samples = read_samples(data)[:limit]
    images = [image for sample in samples for image in sample.conversation.images if isinstance(image, Path)]
    inputs = (data, text_gguf, mmproj_gguf, *images)
    # Fail now instead of after an hour.
    Outputs((out,), GGUF, inputs, overwrite=force).check()
    # Only ggml exposes the inputs of its products.
    with progress_line() as on_progress:
        engine = Engine(
            text_gguf,
            mmproj_gguf,
            vision_backend="ggml",
            kernels="plain",
            on_progress=on_progress,
            **engine_options,
        )
        try:
            found = compute_importance(engine, samples, on_progress)
        finally:
            engine.close()
    tokens = round(found.tokens / found.prompts)
    write_imatrix(
        out,
        found.statistics,
        dataset=data.name,
        samples=found.prompts,
        sample_tokens=tokens,
        inputs=inputs,
        overwrite=force,
    )
    counts = (
        count_text(len(found.statistics), "matrix", "matrices"),
        count_text(found.prompts, "prompt"),
        count_text(found.tokens, "token"),
    )
    echo_lines([f"{out}  {', '.join(counts)}"])
