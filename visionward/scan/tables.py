"""Tables of samples: JSONL, CSV and Parquet, one sample per row.

The columns are the keys of a sample (`visionward.runtime.guard.samples`). The images of Parquet files may be bytes,
paths, or structs with ``bytes`` and ``path`` as Hugging Face's datasets have them.
"""

import os
from collections.abc import Iterator, Mapping
from csv import Error as CsvError
from pathlib import Path
from typing import Any

from visionward.errors import ConversationError, DataError, VisionwardError
from visionward.formats.strict_json import parse_json
from visionward.formats.table_files import csv_rows, parquet_length, parquet_rows
from visionward.formats.text_lines import numbered_lines
from visionward.runtime.guard.samples import SAMPLE_KEYS, Sample
from visionward.scan.item import Item

TABLES = (".jsonl", ".csv", ".parquet")


def table_items(path: Path, columns: Mapping[str, str]) -> Iterator[Item]:
    """An item for each row.

    Args:
        path: the file; its suffix says what it is.
        columns: key of a sample to the column that has it. If it is empty, all columns must be keys of samples;
            otherwise other columns are ignored.

    Raises:
        DataError: if the file cannot be read, or a column is unknown or missing.
        MissingExtraError: if the package for Parquet is missing.
    """
    name = "line" if path.suffix.lower() == ".jsonl" else "row"
    for number, row in _rows(path):
        sample = row if isinstance(row, VisionwardError) else _sample(row, columns, f"{name} {number}", path)
        yield Item(sample.id if isinstance(sample, Sample) else f"{name} {number}", sample, str(path), number)


def table_length(path: Path) -> int:
    """Number of rows. That of a Parquet file is read from its end, and the lines of a JSONL file are only counted.

    Raises:
        DataError: as ``table_items``.
        MissingExtraError: as ``table_items``.
    """
    if path.suffix.lower() == ".parquet":
        return parquet_length(path)
    try:
        return sum(1 for _ in (numbered_lines if path.suffix.lower() == ".jsonl" else _rows)(path))
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}: not UTF-8 text (byte {cause.start})") from cause
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror or cause}") from cause


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    try:
        if path.suffix.lower() == ".jsonl":
            yield from ((number, _object(line)) for number, line in numbered_lines(path))
        elif path.suffix.lower() == ".csv":
            yield from ((number, _whole(row)) for number, row in enumerate(csv_rows(path), start=1))
        else:
            yield from enumerate(parquet_rows(path), start=1)
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}: not UTF-8 text (byte {cause.start})") from cause
    except CsvError as cause:
        raise DataError(f"{path}: not CSV: {cause}") from cause
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror or cause}") from cause


def _object(line: str) -> dict[str, Any] | DataError:
    try:
        value = parse_json(line, DataError)
    except DataError as error:
        return error
    return value if isinstance(value, dict) else DataError(f"found {type(value).__name__}, expected an object")


def _whole(row: Mapping[Any, Any]) -> dict[str, Any] | DataError:
    """A row of a CSV file. Empty fields are missing values."""
    if None in row or None in row.values():
        return DataError("the row has more or fewer fields than the header")
    return {str(name): value or None for name, value in row.items()}


def _sample(row: Mapping[str, Any], columns: Mapping[str, str], name: str, path: Path) -> Sample | VisionwardError:
    try:
        return sample_of_row(row, columns, name, path.parent)
    except (DataError, ConversationError) as error:
        return error


def sample_of_row(row: Mapping[str, Any], columns: Mapping[str, str], name: str, base: Path) -> Sample:
    """The sample of a row.

    Args:
        row: column to value.
        columns: see `table_items`.
        name: the sample's id if the row has none.
        base: the folder that paths are relative to.

    Raises:
        DataError: if the row is malformed.
        ConversationError: if there is nothing to judge, or a message is malformed.
    """
    return Sample.from_row(_chosen(row, columns), name, base)


def _chosen(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The keys of a sample."""
    for column in columns.values():
        if column not in row:
            raise DataError(f"the column {column!r} is missing")
    named = {key: row[column] for key, column in columns.items()} if columns else dict(row)
    if isinstance(named.get("image"), Mapping):
        cell = named["image"]
        named["image"] = cell.get("bytes") or cell.get("path")
    if isinstance(named.get("messages"), str):
        named["messages"] = parse_json(named["messages"], DataError)
    return {key: value for key, value in named.items() if value is not None}


def read_captions(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """A table of images and prompts: absolute path of the image to its prompt.

    Raises:
        DataError: if the file cannot be read, or a row has no image or no prompt.
    """
    captions = {}
    for number, row in _rows(path):
        if isinstance(row, VisionwardError):
            raise DataError(f"{path}: row {number}: {row}")
        image, prompt = (row.get(columns.get(key, key)) for key in ("image", "prompt"))
        if not isinstance(image, str) or not isinstance(prompt, str):
            raise DataError(f"{path}: row {number}: expected an image and a prompt; name other columns with --column")
        captions[os.path.abspath(path.parent / image)] = prompt  # noqa: PTH100 - follows no links
    return captions


def check_columns(columns: Mapping[str, str]) -> None:
    """Check that only keys of samples are mapped.

    Raises:
        DataError: if one is unknown.
    """
    unknown = [key for key in columns if key not in SAMPLE_KEYS]
    if unknown:
        raise DataError(f"unknown key {unknown[0]!r} of a sample, expected {', '.join(SAMPLE_KEYS)}")
