"""Rows of a public set, as its files have them, and how they become samples. Nothing is ever fetched."""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionward.compare.datasets.dataset import Dataset, LeftOut
from visionward.errors import ConversationError, DataError
from visionward.formats.regular_file import open_regular
from visionward.formats.strict_json import MOST_BYTES
from visionward.formats.text_lines import numbered_lines
from visionward.formats.whole_text import read_text
from visionward.machine.extras import require
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample

# For sets of pictures alone; the words that Meta's own example has.
NEUTRAL_PROMPT = "Describe the image"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_BATCH_ROWS = 64
# The name of an image that was written for a cell: of its digest.
_OWN_IMAGE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        id: unique in the set.
        unsafe: its label; None if it has none, which leaves it out.
        prompt: what the user says.
        response: what the assistant answered; then that is judged.
        image: a file.
        category: the set's own name of the hazard.
        group: equal for rows that are not independent.
        left_out: why it is no sample.
    """

    id: str
    unsafe: bool | None = None
    prompt: str | None = None
    response: str | None = None
    image: Path | None = None
    category: str | None = None
    group: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Adapter:
    """A public set.

    Attributes:
        title: its name, and where it comes from.
        rows: reads a folder or file; images that are kept inside files are written into the second folder.
        layout: which files are expected, for messages.
        mapping: its categories, in lower case, to codes of the taxonomy. Empty where none fits without doubt: such
            samples count as safe or unsafe, and for no category.
        notes: what a reader of figures over it should know.
    """

    title: str
    rows: Callable[[Path, Path], Iterator[Row]]
    layout: str
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self, path: Path, scratch: Path) -> Dataset:
        """The set's samples.

        Raises:
            DataError: if the files are not of its form.
            MissingExtraError: if a library is missing.
        """
        samples: dict[str, Sample] = {}
        left_out = []
        try:
            for row in self.rows(path, scratch):
                made = self._sample(row, row.id if row.id not in samples else f"{row.id} ({len(samples)})")
                if isinstance(made, LeftOut):
                    left_out.append(made)
                else:
                    samples[made.id] = made
        except (KeyError, TypeError, AttributeError, IndexError) as cause:
            raise DataError(f"{path}: not of the expected form ({self.layout}): {cause!r}") from cause
        except UnicodeDecodeError as cause:
            raise DataError(f"{path}: not UTF-8 text (byte {cause.start})") from cause
        except OSError as cause:
            raise DataError(f"{cause.filename or path}: {cause.strerror or cause}") from cause
        if not samples:
            reason = f"; the first row: {left_out[0].reason}" if left_out else ""
            raise DataError(f"{path}: there is no sample in it, expected {self.layout}{reason}")
        return Dataset(self.title, tuple(samples.values()), tuple(left_out), self.notes, self.mapping)

    def _sample(self, row: Row, identifier: str) -> Sample | LeftOut:
        if row.left_out is not None:
            return LeftOut(identifier, row.left_out)
        if row.unsafe is None:
            return LeftOut(identifier, "it has no label")
        if row.image is not None and not row.image.is_file():
            return LeftOut(identifier, f"the image {row.image.name} is missing")
        codes = self.mapping.get((row.category or "").strip().lower(), ()) if row.unsafe else ()
        try:
            conversation = Conversation.from_prompt(row.prompt, row.response, row.image)
        except ConversationError as cause:
            return LeftOut(identifier, str(cause))
        return Sample.make(identifier, conversation, unsafe=row.unsafe, categories=codes, group=row.group)


def choice(value: object, unsafe: str, safe: str) -> bool | None:
    """A label that is one of two words; None for no label.

    Raises:
        DataError: it is another word, which must not pass for safe.
    """
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if text not in (unsafe, safe):
        raise DataError(f"the label is {value!r}, expected {unsafe!r} or {safe!r}")
    return text == unsafe


def files(path: Path, *patterns: str) -> list[Path]:
    """A file itself, or what a folder has of the first pattern that fits.

    Raises:
        DataError: if there is none.
    """
    if path.is_file():
        return [path]
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if found:
            return found
    raise DataError(f"{path}: expected {' or '.join(patterns)} in it")


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header."""
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def json_value(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(read_text(path, MOST_BYTES, "utf-8-sig"))
    except json.JSONDecodeError as cause:
        raise DataError(f"{path}: not JSON: {cause}") from cause


def jsonl_rows(path: Path) -> Iterator[Any]:
    """Lines of a JSONL file.

    Raises:
        DataError: a line is not JSON.
    """
    for number, line in numbered_lines(path):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as cause:
            raise DataError(f"{path}: line {number}: not JSON: {cause}") from cause


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, a few at a time: images make them large.

    Raises:
        DataError: it is no Parquet file.
    """
    pyarrow = require("pyarrow", "pyarrow.parquet")
    try:
        # pyarrow opens what it is given a name of, whatever that is.
        open_regular(path).close()
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as cause:
        raise DataError(f"{path}: no Parquet file: {cause}") from cause


def remove_images(scratch: Path) -> None:
    """Remove what ``image_cell`` wrote, and the folder unless it holds something else."""
    for path in scratch.glob("*"):
        if _OWN_IMAGE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        scratch.rmdir()


def image_cell(cell: Any, scratch: Path, base: Path) -> Path:
    """The image of a Parquet cell as a file: written into ``scratch`` if the cell holds its bytes.

    Raises:
        DataError: the cell holds neither bytes nor a path.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, bytes):
        scratch.mkdir(parents=True, exist_ok=True)
        file = scratch / hashlib.sha256(data).hexdigest()[:32]
        if not file.exists() or file.stat().st_size != len(data):
            file.write_bytes(data)
        return file
    if isinstance(path, str) and path:
        return base / path
    raise DataError(f"an image cell holds {type(cell).__name__}, expected bytes or a path")


def image_called(folder: Path, name: str) -> Path:
    """The picture with this name and any suffix; a path that does not exist where there is none."""
    for suffix in _IMAGE_SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / f"{name}.jpg"
