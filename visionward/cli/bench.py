"""The ``bench`` command."""

import sys
from pathlib import Path
from typing import Any

import click

from visionward.cli.command import Command
from visionward.cli.error_group import check_interrupted
from visionward.cli.model_options import (
    EXISTING_FILE,
    demo_option,
    engine_options,
    pair_options,
    resolve_pair,
)
from visionward.cli.progress import progress_line
from visionward.cli.wrapping import echo_lines, terminal_columns
from visionward.progress import OnProgress


@click.command(cls=Command)
@pair_options
@demo_option
@click.option(
    "--image",
    metavar="FILE",
    type=EXISTING_FILE,
    help="The image.  [default: a synthetic picture of four tiles]",
)
@click.option("--prompt", metavar="TEXT", help='What the user says.  [default: "What is in this picture?"]')
@click.option(
    "--runs", metavar="N", type=click.IntRange(1, 10000), default=5, show_default=True, help="Runs that are measured."
)
@click.option(
    "--warmup", metavar="N", type=click.IntRange(0, 10000), default=1, show_default=True, help="Runs before them."
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for --against.")
@click.option(
    "--against", metavar="OLD.json", type=EXISTING_FILE, help="Compare with what --json printed in another run."
)
def bench(
    model: Path | None,
    mmproj: Path | None,
    demo: bool,
    image: Path | None,
    prompt: str | None,
    runs: int,
    warmup: int,
    as_json: bool,
    against: Path | None,
    **engine_options: Any,  # whatever the shared options are, the engine takes them under the same names
) -> None:
    """Measure times and memory.

    Every run encodes the image. Shows the minimum, the median and the 95th percentile of loading, preprocessing,
    vision, prefill, decode and their total; of classifying the same image again; and of decoding one token, which a
    safe verdict does not need. --against shows ratios to another run, and how the environments differ. See
    docs/benchmarking.md.

    \b
    Examples:
        visionward bench --demo
        visionward bench --model models --json > old.json
        visionward bench --model models --against old.json
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    text_gguf, mmproj_gguf = resolve_pair(model, mmproj, demo=demo)

    from visionward.cli.bench_text import benchmark_lines, comparison_lines  # noqa: PLC0415 - not needed for --help
    from visionward.diagnose import benchmark_guard  # noqa: PLC0415
    from visionward.diagnose.benchmark import DEFAULT_PROMPT, BenchmarkPlan, measure, synthetic_picture  # noqa: PLC0415
    from visionward.diagnose.benchmark_comparison import compare, read_benchmark  # noqa: PLC0415
    from visionward.diagnose.benchmark_report import describe, dump  # noqa: PLC0415

    # A file that cannot be read is an error now and not after all the runs.
    old = None if against is None else read_benchmark(against)
    plan = BenchmarkPlan(
        image=synthetic_picture() if image is None else image,
        prompt=DEFAULT_PROMPT if prompt is None else prompt,
        runs=runs,
        warmup=warmup,
    )

    def load(on_progress: OnProgress | None) -> benchmark_guard.BenchmarkGuard:
        return benchmark_guard.BenchmarkGuard(text_gguf, mmproj_gguf, on_progress=on_progress, **engine_options)

    with progress_line() as on_progress:
        measurement = measure(load, plan, on_progress)
        new = describe(measurement, plan, text_gguf, mmproj_gguf, engine_options).to_dict()
    check_interrupted()
    columns = terminal_columns(sys.stdout)
    if old is None or against is None:
        if as_json:
            click.echo(dump(new))
        else:
            echo_lines(benchmark_lines(new, columns))
        return
    comparison = compare(old, new)
    if as_json:
        click.echo(dump(new | {"against": {"old": old, **comparison.to_dict()}}))
    else:
        compared = comparison_lines(old, new, comparison, against.name, columns)
        echo_lines([*benchmark_lines(new, columns), "", *compared])
