"""The ``scan`` command."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from visionward.cli.command import Command
from visionward.cli.error_group import check_interrupted
from visionward.cli.file_completion import complete_file
from visionward.cli.model_options import (
    EXISTING_FILE,
    demo_option,
    engine_options,
    pair_options,
    resolve_pair,
)
from visionward.cli.progress import progress_line
from visionward.cli.scan_input import chosen_inputs, read_columns
from visionward.cli.verdict_options import chosen_policy, judging_options, verdict_options
from visionward.cli.wrapping import echo_lines
from visionward.names import ImitationTreatment

if TYPE_CHECKING:
    from visionward.scan.cluster import Cluster
    from visionward.scan.inputs import Inputs
    from visionward.scan.options import ScanOptions

_DETAILS = """\
An INPUT is a folder, whose images and those of its subfolders are judged; an image; a table (.jsonl, .csv, .parquet)
with the columns image, prompt, response, messages and id; or -, which reads names of images from standard input, one
per line or ended by NUL bytes.

RESULTS.jsonl gets one object per sample: name (the path of the image, or the sample's id in its table), source and row
(the table and the line or row; null for an image), id (a hash of image, texts, model and options), the keys that
`visionward classify --json` prints, error (why there is no verdict; then verdict is null), copy_of (the sample with the
same content that was judged; else null), settings (a hash of model and options) and crc32. docs/scanning.md says more.

Exit codes: 0 whatever the verdicts; with --exit-code: 1 if a sample is unsafe, else 3 if one could not be judged; 2 for
errors; 130 when interrupted. After an interruption, the same command goes on.
"""


@click.command(cls=Command, epilog=_DETAILS)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, shell_complete=complete_file)
@pair_options
@demo_option
@click.option("--prompt", metavar="TEXT", help="What the user says with each image; not for tables.")
@click.option(
    "--captions",
    metavar="TABLE",
    type=EXISTING_FILE,
    help="A table with the columns image and prompt: what the user says with each image.",
)
@click.option("--sidecars", is_flag=True, help="The text beside each image is what the user says: cat.txt for cat.jpg.")
@click.option(
    "--column",
    "columns",
    metavar="KEY=COLUMN",
    multiple=True,
    callback=read_columns,
    help="A column of the tables under another name, such as prompt=caption; repeatable. Columns that are not named "
    "are ignored then, and refused otherwise.",
)
@verdict_options
@judging_options
@engine_options
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Number of processes that judge. They share the model's files in memory, and the cores unless --threads says "
    "how many each has.",
)
@click.option(
    "--deadline",
    "deadline_s",
    metavar="SECONDS",
    type=click.IntRange(1, 86400),
    default=1800,
    show_default=True,
    help="A process that takes longer than this for a sample is ended. The sample is judged again, alone, and gets an "
    "error if that takes longer too.",
)
@click.option(
    "--watch", is_flag=True, help="Judge the images that arrive in the folders too, until the program is interrupted."
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    is_flag=False,
    flag_value="",
    help="Judge on a Ray cluster: the one at this address, or one that is started on this machine. RESULTS is then a "
    "folder that every node reaches, and gets Parquet files.",
)
@click.option(
    "--actors",
    metavar="N",
    type=click.IntRange(1, 100_000),
    help="With --ray: number of actors, each with --threads CPUs.  [default: one per node, with all its CPUs. "
    "If only the number is given, actors of a node share its CPUs]",
)
@click.option(
    "--gpus-per-actor",
    metavar="N",
    type=click.FloatRange(0, 64),
    help="With --ray: GPUs of an actor; may be a fraction.  [default: 1 with --device, --vision-device or --gpu-layers "
    "for a GPU, else 0]",
)
@click.option(
    "--out",
    metavar="RESULTS",
    required=True,
    type=click.Path(path_type=Path),
    help="The file, such as results.jsonl, that gets one line per sample. Samples that have one are not judged again.",
)
@click.option(
    "--report",
    metavar="REPORT.html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="When the scan is done, write a page that shows the results, with small blurred pictures. A page of an "
    "earlier scan is replaced.",
)
@click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if a sample is unsafe, and else with 3 if one could not be judged."
)
@click.pass_context
def scan(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    model: Path | None,
    mmproj: Path | None,
    demo: bool,
    prompt: str | None,
    captions: Path | None,
    sidecars: bool,
    columns: dict[str, str],
    categories: Path | None,
    exclude: list[str],
    threshold: float,
    frames: int,
    category_scores: bool,
    imitation: ImitationTreatment,
    jobs: int,
    deadline_s: int,
    watch: bool,
    ray: str | None,
    actors: int | None,
    gpus_per_actor: float | None,
    out: Path,
    report: Path | None,
    exit_code: bool,
    **engine_options: Any,  # whatever the shared options are, the guard takes them under the same names
) -> None:
    """Judge many images.

    They are in folders or named by tables. Each result is on disk before the next sample is judged. After an
    interruption, a kill or a power cut, the same command goes on. An image that occurs under several names is judged
    once. What cannot be judged is recorded with the reason, and is never safe.

    \b
    Examples:
        visionward scan --demo photos --prompt "What is this?" --out results.jsonl
        visionward scan --demo samples.jsonl --out results.jsonl --exit-code
        find photos -name "*.png" -print0 | visionward scan --demo - --sidecars --out results.jsonl
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.demonstration import DEMO_NOTICE  # noqa: PLC0415 - not needed for --help
    from visionward.scan.cluster import Cluster  # noqa: PLC0415
    from visionward.scan.options import ScanOptions  # noqa: PLC0415
    from visionward.scan.results import NOT_JUDGED  # noqa: PLC0415
    from visionward.scan.summary import summary_lines  # noqa: PLC0415

    if watch and report is not None:
        raise click.UsageError("--watch does not end: write the report later, with the same command without --watch")
    if ray is not None and (watch or report is not None):
        raise click.UsageError("--ray excludes --watch and --report")
    samples = chosen_inputs(inputs, prompt, captions, columns, sidecars=sidecars)
    pair = resolve_pair(model, mmproj, demo=demo)
    options = ScanOptions(
        pair,
        engine_options,  # type: ignore[arg-type]  # click's options have these names
        chosen_policy(categories, exclude),
        threshold,
        category_scores,
        frames,
        imitation,
    )
    started = time.monotonic()
    if ray is None:
        outcomes, before, damaged = _on_this_machine(
            samples, out, options, jobs, deadline_s, report, inputs, watch=watch
        )
    else:
        # Other nodes convert the demonstration guard themselves.
        everywhere = replace(options, pair=None) if demo else options
        cluster = Cluster(ray or None, actors, options.engine.get("threads"), gpus_per_actor, deadline_s=deadline_s)
        outcomes, before = _on_cluster(samples, out, everywhere, cluster)
        damaged = 0
    check_interrupted()
    echo_lines(summary_lines(outcomes, before, time.monotonic() - started, damaged))
    if demo:
        echo_lines([f"Note: {DEMO_NOTICE}"])
    if exit_code and outcomes["unsafe"]:
        ctx.exit(1)
    if exit_code and outcomes[NOT_JUDGED]:
        ctx.exit(3)


def _on_this_machine(
    samples: "Inputs",
    out: Path,
    options: "ScanOptions",
    jobs: int,
    deadline_s: float,
    report: Path | None,
    names: tuple[str, ...],
    *,
    watch: bool,
) -> tuple[Counter[str], int, int]:
    """Scan. Returns the outcomes, the number of earlier results, and the damaged lines among them."""
    from visionward.machine.processor import physical_cores  # noqa: PLC0415 - not needed for --help
    from visionward.scan.html_report import report_outputs, write_report  # noqa: PLC0415
    from visionward.scan.results import Results  # noqa: PLC0415
    from visionward.scan.scan import scan as run  # noqa: PLC0415
    from visionward.scan.watching import watched_items  # noqa: PLC0415

    if jobs > 1 and options.engine.get("threads") is None:
        options = options.with_threads(max(1, physical_cores() // jobs))
    page = None if report is None else report_outputs(report, (out, *samples.paths))
    if page is not None:
        page.check()
    results = Results(out, options.key)
    before = len(results)
    try:
        with progress_line() as on_progress:
            if watch:
                run(watched_items(samples), results, options, jobs, deadline_s=deadline_s)
            total = samples.count()
            run(samples, results, options, jobs, deadline_s=deadline_s, total=total, on_progress=on_progress)
            if page is not None:
                write_report(page, samples, results, options, names, total=total, on_progress=on_progress)
    finally:
        results.close()
    return results.outcomes(), before, results.damaged


def _on_cluster(samples: "Inputs", out: Path, options: "ScanOptions", cluster: "Cluster") -> tuple[Counter[str], int]:
    """Scan. Returns the outcomes and the number of earlier results."""
    from visionward.scan.cluster import scan_on_cluster  # noqa: PLC0415 - not needed for --help
    from visionward.scan.shards import Shards  # noqa: PLC0415

    shards = Shards(out)
    before = sum(shards.outcomes().values())
    with progress_line() as on_progress:
        total = samples.count()
        scan_on_cluster(samples, out, options, cluster, total=total, on_progress=on_progress)
    return shards.outcomes(), before
