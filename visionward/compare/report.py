"""The report: figures and conclusions, and the files that hold them."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any

from visionward.compare import quoted
from visionward.compare.conclusion import Conclusion, best_choice, conclusions
from visionward.compare.datasets import Dataset
from visionward.compare.figures import SetFigures, set_figures
from visionward.compare.intervals import CONFIDENCE, RESAMPLES
from visionward.compare.judging import ModelResults
from visionward.compare.models import GuardFiles
from visionward.compare.report_files import report_outputs
from visionward.compare.times import BETWEEN_RUNS
from visionward.errors import DataError
from visionward.formats.output_file import part_files, prepare_folder
from visionward.machine.packages import installed_version

FORMAT = 2


@dataclass(frozen=True)
class SetReport:
    """One data set.

    Attributes:
        figures: of every model on it.
        conclusions: for every model but the reference.
        choice: in one sentence.
    """

    figures: SetFigures
    conclusions: tuple[Conclusion, ...]
    choice: str


@dataclass(frozen=True)
class Report:
    """A whole comparison.

    Attributes:
        created: when, in UTC.
        version: of visionward.
        threshold: unsafe from this score on.
        margin: the loss that counts as none.
        sets: never pooled.
        given_up: models that could not be run, and why; they are in no figure.
        quoted: show the model card's figures.
    """

    created: str
    version: str
    threshold: float
    margin: float
    sets: tuple[SetReport, ...]
    given_up: dict[str, str]
    quoted: bool


def make_report(
    datasets: Sequence[Dataset],
    results: Sequence[ModelResults],
    *,
    threshold: float,
    margin: float,
    show_quoted: bool = False,
) -> Report:
    """All figures and conclusions.

    Raises:
        DataError: if no model judged any sample.
    """
    given_up = {result.model.name: result.given_up for result in results if result.given_up is not None}
    usable = [results[0], *(result for result in results[1:] if result.given_up is None)]
    sets = []
    for dataset in datasets:
        figures = set_figures(dataset, usable)
        if not figures.compared:
            first = figures.skipped[0].reason if figures.skipped else "there are none"
            raise DataError(f"{dataset.name}: no sample was judged by every model; the first: {first}")
        found = conclusions(figures, margin)
        sets.append(SetReport(figures, found, best_choice(figures, found)))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    version = installed_version("visionward") or "(not installed)"
    return Report(now, version, threshold, margin, tuple(sets), given_up, show_quoted)


def report_dict(report: Report, results: Sequence[ModelResults]) -> dict[str, Any]:
    """The report as plain values."""
    models = [
        {
            "name": result.model.name,
            "text": result.model.text.name,
            "mmproj": result.model.mmproj.name,
            "onnx_tower": None if result.model.tower is None else result.model.tower.name,
        }
        if isinstance(result.model, GuardFiles)
        else {
            "name": result.model.name,
            "url": result.model.url,
            "model": result.model.model,
            "style": result.model.style,
        }
        for result in results
    ]
    values: dict[str, Any] = {
        "format": FORMAT,
        **asdict(report),
        "models": models,
        "method": {
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "resampled": "groups",
            "between_runs": BETWEEN_RUNS,
        },
    }
    if report.quoted:
        values["quoted"] = {
            "source": quoted.SOURCE,
            "caveat": quoted.CAVEAT,
            "table_1": [asdict(row) for row in quoted.TABLE_1],
            "table_2": quoted.TABLE_2,
        }
    return values


COLUMNS = (
    "set",
    "sample",
    "group",
    "label",
    "categories",
    "model",
    "verdict",
    "score",
    "answer_mass",
    "named",
    "flip",
    "kl",
    "vision_ms",
    "prefill_ms",
    "decode_ms",
    "total_ms",
    "tiles",
    "prompt_tokens",
    "skipped",
)


def csv_rows(datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> Iterator[dict[str, Any]]:
    """Every sample with every model, skipped ones too."""
    for dataset in datasets:
        for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
            base = results[0].judged.get(digest)
            for result in results:
                row: dict[str, Any] = {
                    "set": dataset.name,
                    "sample": sample.id,
                    "group": sample.group,
                    "label": {True: "unsafe", False: "safe", None: ""}[sample.unsafe],
                    "categories": " ".join(sorted(sample.categories or ())),
                    "model": result.model.name,
                }
                found = result.judged.get(digest)
                if found is None or found.reason is not None:
                    yield {**row, "skipped": "it got no answer" if found is None else found.reason}
                    continue
                times = found.times_ms or {}
                flipped = base is not None and base.reason is None and base.unsafe != found.unsafe
                yield {
                    **row,
                    "verdict": "no answer" if found.no_answer else "unsafe" if found.unsafe else "safe",
                    "score": found.score,
                    "answer_mass": found.answer_mass,
                    "named": " ".join(found.categories),
                    "flip": ("to unsafe" if found.unsafe else "to safe") if flipped else "",
                    "kl": found.kl,
                    "vision_ms": times["vision"] + times.get("preprocess", 0.0) if "vision" in times else None,
                    "prefill_ms": times.get("prefill"),
                    "decode_ms": times.get("decode"),
                    "total_ms": times.get("total"),
                    "tiles": found.tiles,
                    "prompt_tokens": found.prompt_tokens,
                }
        for left_out in dataset.left_out:
            yield {"set": dataset.name, "sample": left_out.id, "skipped": left_out.reason}


def write_report(folder: Path, report: Report, datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> None:
    """Write report.json, samples.csv and report.html.

    Raises:
        OutputError: if the folder cannot be written, or holds a file of one of these names that no comparison wrote.
    """
    from visionward.compare.html_report import html_report  # noqa: PLC0415 - needs the extra

    table = StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in csv_rows(datasets, results))
    texts = {
        "report.json": json.dumps(report_dict(report, results), indent=1, allow_nan=False) + "\n",
        "samples.csv": table.getvalue(),
        "report.html": html_report(report, datasets, results),
    }
    prepare_folder(folder, sum(len(text) for text in texts.values()))
    with part_files(report_outputs(folder)) as parts:
        for part in parts:
            part.file.write(texts[part.final.name].encode("utf-8", "backslashreplace"))


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: ids and reasons come from other people's files."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
