"""The results of a scan as one HTML page that refers to nothing outside itself."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from visionward.formats.output_file import FileKind, Outputs, part_files
from visionward.progress import OnProgress, ProgressCounter
from visionward.runtime.guard.message import TextPart
from visionward.runtime.guard.samples import Sample
from visionward.runtime.images.thumbnail import thumbnail
from visionward.scan.item import Item
from visionward.scan.options import ScanOptions
from visionward.scan.results import Results

_PIXELS, _QUALITY = 128, 70
_MAX_TEXT = 300
# In the first bytes of every page.
_MARK, _READ_BYTES = b"<title>visionward: Scan of ", 4096
# Where the rows go, which are written one by one.
_ROWS = "\0rows\0"


def _is_of_a_scan(path: Path) -> bool:
    with path.open("rb") as file:
        return _MARK in file.read(_READ_BYTES)


def report_outputs(path: Path, inputs: tuple[Path, ...]) -> Outputs:
    """The page, which replaces an earlier one."""
    return Outputs((path,), FileKind("report of a scan", _is_of_a_scan), inputs, overwrite=True)


def write_report(
    outputs: Outputs,
    items: Iterable[Item],
    results: Results,
    options: ScanOptions,
    inputs: Iterable[str],
    *,
    total: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the page. One sample at a time is in memory.

    Args:
        outputs: the file.
        items: the samples, for their pictures and texts.
        results: the results.
        options: of the results.
        inputs: their names.
        total: number of the samples; 0 if it is unknown.
        on_progress: called for each sample.

    Raises:
        OutputError: if the file cannot be written, or is another kind of file.
    """
    progress = ProgressCounter(on_progress, "report", total, "samples")
    head, tail = _page(f"Scan of {', '.join(inputs)}", options).split(_ROWS)
    with part_files(outputs) as (part,):
        part.file.write(head.encode("utf-8", "backslashreplace"))
        for number, row in enumerate(_rows(items, results, options)):
            part.file.write((",\n" if number else "").encode() + _script_json(row).encode())
            progress.advance(1)
        part.file.write(tail.encode())


def _page(title: str, options: ScanOptions) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    script = _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    names = {category.code: category.name for category in options.policy.categories}
    return environment.from_string(_resource("report.html.jinja")).render(
        title=title,
        style=Markup(_resource("report.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=Markup(f"sha256-{digest}"),  # noqa: S704 - base64
        names=Markup(_script_json(names)),  # noqa: S704 - escaped
        rows=Markup(_ROWS),  # noqa: S704 - a mark
    )


def _resource(name: str) -> str:
    return resources.files("visionward.scan").joinpath(name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    """JSON that ends no script element, and has no mark of a comment in it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _rows(items: Iterable[Item], results: Results, options: ScanOptions) -> Iterator[dict[str, Any]]:
    # Id -> number of the row with its picture.
    pictured: dict[str, int] = {}
    number = 0
    for item in map(Item.read, items):
        identifier = options.item_id(item)
        found = results.of_equal_content(identifier)
        if found is None:
            continue
        picture: str | int | None = pictured.get(identifier)
        if picture is None:
            picture = _picture(item.content) if isinstance(item.content, Sample) else None
            pictured[identifier] = number
        number += 1
        yield {
            "name": item.name,
            "folder": item.source or str(Path(item.name).parent),
            "verdict": found["verdict"],
            "score": found.get("score"),
            "categories": [category["code"] for category in found.get("categories", ())],
            "error": found["error"],
            "warnings": found.get("warnings", ()),
            "copy": found["name"] if found["name"] != item.name else None,
            "text": _text(item.content) if isinstance(item.content, Sample) else "",
            "picture": picture,
        }


def _picture(sample: Sample) -> str | None:
    first = next(iter(sample.conversation.images), None)
    return None if first is None else thumbnail(first, _PIXELS, _QUALITY)


def _text(sample: Sample) -> str:
    """The beginning of the last message, which is judged."""
    parts = sample.conversation.messages[-1].parts
    text = " ".join(part.text for part in parts if isinstance(part, TextPart))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
