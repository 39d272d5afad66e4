"""The ``compare`` command."""

import sys
from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.model_folder import find_files
from visionward.cli.model_options import device_options, placement_options
from visionward.names import DEFAULT_THRESHOLD

_STYLES = ("guard", "zero-shot")


def _forms(forms: tuple[str, ...], count: int) -> list[str]:
    if len(forms) <= 1:
        return list(forms or ("jsonl",)) * count
    if len(forms) != count:
        raise click.UsageError("give --data-format once for all data, or once per --data in the same order")
    return list(forms)


def _styles(styles: tuple[str, ...], count: int) -> list[str]:
    if len(styles) <= 1:
        return list(styles or ("guard",)) * count
    if len(styles) != count:
        raise click.UsageError("give --endpoint-style once for all endpoints, or once per --endpoint in the same order")
    return list(styles)


@click.command(cls=Command)
@click.option(
    "--data",
    metavar="DATA.jsonl",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Labelled samples; repeatable. Figures are given per data set and never pooled.",
)
@click.option(
    "--data-format",
    "forms",
    metavar="NAME",
    multiple=True,
    help="Format of the data, one for all or one per --data: jsonl, or a public set (docs/comparison.md).  "
    "[default: jsonl]",
)
@click.option(
    "--reference",
    metavar="[NAME=]DIR|TEXT.gguf,MMPROJ.gguf[,TOWER.onnx]",
    required=True,
    help="The pair to compare with.",
)
@click.option(
    "--candidate",
    "candidates",
    metavar="[NAME=]DIR|TEXT.gguf,MMPROJ.gguf[,TOWER.onnx][;max_tiles=N|auto][;band=LOW,HIGH|FILE]",
    multiple=True,
    help="A pair to compare; repeatable. ONNX Runtime encodes images if an ONNX tower is given, else ggml. DIR is a "
    "folder with one pair, and its ONNX tower if there is one. max_tiles and band are those of `visionward classify`.",
)
@click.option(
    "--endpoint",
    "endpoints",
    metavar="NAME=URL,MODEL",
    multiple=True,
    help="A model behind an OpenAI-compatible chat API, as a baseline; repeatable. Images are sent to it! "
    "Its key comes from <NAME>_API_KEY or VISIONWARD_ENDPOINT_KEY.",
)
@click.option(
    "--endpoint-style",
    "styles",
    type=click.Choice(_STYLES),
    multiple=True,
    help="guard: a Llama Guard. zero-shot: a general model, which is told the policy.  [default: guard]",
)
@click.option(
    "--endpoint-rate",
    metavar="N",
    type=click.FloatRange(0, min_open=True),
    help="Maximum number of requests per minute.",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report.",
)
@click.option(
    "--threshold",
    metavar="P",
    type=click.FloatRange(0, 1),
    default=DEFAULT_THRESHOLD,
    show_default=True,
    help="P(unsafe) from which on a verdict is unsafe.",
)
@click.option(
    "--margin",
    metavar="POINTS",
    type=click.FloatRange(0, 100, min_open=True),
    default=2.0,
    show_default=True,
    help="Accepted loss of recall, and accepted rise of the false-positive rate, in percentage points.",
)
@click.option(
    "--categories", metavar="FILE.json", type=click.Path(exists=True, path_type=Path), help="Your own categories."
)
@click.option("--exclude", metavar="S5", multiple=True, help="A category to leave out; repeatable.")
@device_options
@placement_options
@click.option("--quoted", is_flag=True, help="Show the published figures of the model card too, marked as quoted.")
@click.option("--keep", is_flag=True, help="Keep the logits of the reference, so that candidates can be added later.")
@click.pass_context
def compare(
    ctx: click.Context,
    data: tuple[Path, ...],
    forms: tuple[str, ...],
    reference: str,
    candidates: tuple[str, ...],
    endpoints: tuple[str, ...],
    styles: tuple[str, ...],
    endpoint_rate: float | None,
    out: Path,
    threshold: float,
    margin: float,
    categories: Path | None,
    exclude: tuple[str, ...],
    threads: int | None,
    gpu_layers: int | None,
    device: str | None,
    vision_device: str | None,
    quoted: bool,
    keep: bool,
) -> None:
    """Compare the accuracy, size and speed of models.

    Every model, such as a guard quantized to another type, judges every labelled sample. The report begins with one
    table (decision, flips, size and time of every candidate) and the number of samples that the margin needs. Then come
    the conclusion, precision, recall, F1 and false-positive rate with intervals and exact tests, recall against
    threshold, memory and times, misses and false alarms, and the environment. Every candidate is opened before the
    first sample is judged. To resume an interrupted comparison, repeat the command.

    \b
    DIR gets report.html, report.md, report.json, samples.csv, and work/ with the results so far. If a candidate is the
    reference with max_tiles=1, and the samples suffice, band.json is for --max-tiles auto (docs/tiles.md). Files of an
    older comparison are replaced, others never. A line of DATA.jsonl:
        {"image": "a.png", "prompt": "What is this?", "label": "unsafe", "categories": ["S9"]}

    Exit codes: 0 if every model judged all samples; 1 if a candidate or an endpoint was given up, in which case the
    report names it and is about the others; 2 for errors, without a report; 130 if interrupted.

    \b
    Example:
        visionward compare --data samples.jsonl --reference guard-text-F16.gguf,mmproj-guard-F16.gguf \\
            --candidate guard-text-Q4_K_M.gguf,mmproj-guard-Q8_0.gguf --out report
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.machine.extras import require  # noqa: PLC0415 - not needed for --help

    # Before the first import that needs one of them, and before hours of judging.
    require("rich", "scipy.stats", "sklearn.metrics", "matplotlib", *(["openai"] if endpoints else []))
    from rich.console import Console  # noqa: PLC0415

    from visionward.cli.compare_progress import ComparisonProgress  # noqa: PLC0415
    from visionward.compare.comparison import run  # noqa: PLC0415
    from visionward.compare.datasets import FORMATS, read_dataset, remove_images, with_own_names  # noqa: PLC0415
    from visionward.compare.models import Endpoint, GuardFiles  # noqa: PLC0415
    from visionward.compare.plan import ComparisonPlan  # noqa: PLC0415
    from visionward.compare.report_files import check_folder  # noqa: PLC0415
    from visionward.compare.settings import EndpointSettings, GuardSettings  # noqa: PLC0415
    from visionward.compare.terminal_report import terminal_report  # noqa: PLC0415
    from visionward.machine.shell import visionward_command  # noqa: PLC0415
    from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy  # noqa: PLC0415

    for name in forms:
        if name not in FORMATS:
            raise click.UsageError(f"unknown data format {name!r}; choose {', '.join(FORMATS)}")
    if not candidates and not endpoints:
        raise click.UsageError("nothing to compare with the reference: give --candidate or --endpoint")
    policy = (DEFAULT_POLICY if categories is None else Policy.from_file(categories)).exclude(exclude)
    reference_files = GuardFiles.parse(reference, find_files)
    candidate_files = tuple(GuardFiles.parse(value, find_files) for value in candidates)
    read = [path for pair in (reference_files, *candidate_files) for path in (pair.text, pair.mmproj, pair.tower)]
    check_folder(out, [path for path in (*data, *read, categories) if path is not None])
    scratch = out / "work" / "images"
    datasets = with_own_names(
        [read_dataset(path, form, scratch) for path, form in zip(data, _forms(forms, len(data)), strict=True)]
    )
    plan = ComparisonPlan(
        datasets=datasets,
        reference=reference_files,
        candidates=candidate_files,
        endpoints=tuple(
            Endpoint.parse(value, style)  # type: ignore[arg-type]  # click.Choice
            for value, style in zip(endpoints, _styles(styles, len(endpoints)), strict=True)
        ),
        settings=GuardSettings(policy, threshold, threads, gpu_layers, device, vision_device),
        endpoint_settings=EndpointSettings(endpoint_rate),
        margin=margin / 100,
        quoted=quoted,
        work=out / "work",
        keep_logits=keep,
        command=visionward_command(*sys.argv[1:]),
    )
    with ComparisonProgress() as progress:
        comparison = run(plan, progress)
    comparison.write(out)
    remove_images(scratch)

    # A pipe has no width; the table needs some.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(terminal_report(comparison.report))
    click.echo(f"{out / 'report.html'}")
    if comparison.report.given_up:
        ctx.exit(1)
