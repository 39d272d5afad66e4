"""The files of a comparison's report, and how those of an older one are recognized."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from visionward.compare.datasets import Dataset
from visionward.compare.html_report import html_report
from visionward.compare.markdown_report import markdown_report
from visionward.compare.report import Report
from visionward.compare.report_json import report_dict
from visionward.compare.results import ModelResults
from visionward.compare.samples_csv import samples_csv
from visionward.errors import OutputError
from visionward.formats.output_file import FileKind, Outputs, part_files, prepare_folder

# The beginning of each file in every version; the title of the page comes some lines below.
_MARKS = {
    "report.json": b'{\n "format": ',
    "samples.csv": b"set,sample,group,label,",
    "report.html": b"<title>visionward: ",
    "report.md": b"# Accuracy, size and speed against ",
    "band.json": b'{\n  "format": "visionward tile band"',
}
_READ_BYTES = 4096


def _is_of_a_report(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(_READ_BYTES)
    place = beginning.find(_MARKS[path.name])
    return place == 0 or (place > 0 and path.name == "report.html")


_REPORT_FILE = FileKind("file of a comparison's report", _is_of_a_report)


def report_outputs(folder: Path, inputs: tuple[Path, ...] = (), names: Iterable[str] = _MARKS) -> Outputs:
    """The files of the report in a folder. They may replace those of an older report, and nothing else.

    Args:
        folder: folder of the report.
        inputs: files that the comparison reads.
        names: those of the files.
    """
    return Outputs(tuple(folder / name for name in names), _REPORT_FILE, inputs, overwrite=True)


def check_folder(folder: Path, inputs: Sequence[Path]) -> None:
    """Check, before hours of judging, that the report can be written and that no input is in the work folder.

    Args:
        folder: folder of the report.
        inputs: files that the comparison reads.

    Raises:
        OutputError: if the folder has a file that no comparison wrote, or an input is in the work folder.
    """
    report_outputs(folder, tuple(inputs)).check()
    work = (folder / "work").resolve()
    for path in inputs:
        if work in path.resolve().parents:
            raise OutputError(f"{path} is in {folder / 'work'}, the folder for results so far: choose another --out")


def write_report(folder: Path, report: Report, datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> None:
    """Write report.html, report.md, report.json, samples.csv and, if one was learnt, band.json.

    Raises:
        OutputError: if the folder cannot be written, or has a file of one of these names that no comparison wrote.
    """
    texts = {
        "report.json": json.dumps(report_dict(report, results), indent=1, allow_nan=False) + "\n",
        "samples.csv": samples_csv(datasets, results),
        "report.html": html_report(report, datasets, results),
        "report.md": markdown_report(report, datasets, results),
    }
    band = None if report.band is None else report.band.band
    if band is not None:
        texts["band.json"] = band.to_json()
    prepare_folder(folder, sum(len(text) for text in texts.values()))
    report_outputs(folder).check()
    with part_files(report_outputs(folder, names=texts)) as parts:
        for part in parts:
            part.file.write(texts[part.final.name].encode("utf-8", "backslashreplace"))
    if report.band is not None and band is None:
        # That of an older comparison is not what this one found.
        (folder / "band.json").unlink(missing_ok=True)
