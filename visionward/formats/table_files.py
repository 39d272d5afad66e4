"""The table files of public sets: CSV, JSON, JSONL and Parquet."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visionward.errors import DataError
from visionward.formats.regular_file import open_regular
from visionward.formats.strict_json import MAX_BYTES
from visionward.formats.text_lines import numbered_lines
from visionward.formats.whole_text import read_text
from visionward.machine.extras import require

_BATCH_ROWS = 64


def files(path: Path, *patterns: str) -> list[Path]:
    """The file itself, or the files of a folder that match the first pattern with a match.

    Raises:
        DataError: if no file matches.
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
        DataError: if it is not JSON.
    """
    try:
        return json.loads(read_text(path, MAX_BYTES, "utf-8-sig"))
    except json.JSONDecodeError as cause:
        raise DataError(f"{path}: not JSON: {cause}") from cause


def jsonl_rows(path: Path) -> Iterator[Any]:
    """Lines of a JSONL file.

    Raises:
        DataError: if a line is not JSON.
    """
    for number, line in numbered_lines(path):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as cause:
            raise DataError(f"{path}: line {number}: not JSON: {cause}") from cause


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, read in small batches because images make them large.

    Raises:
        DataError: if it is not a Parquet file.
    """
    with _parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()


def parquet_length(path: Path) -> int:
    """Number of rows of a Parquet file.

    Raises:
        DataError: if it is not a Parquet file.
    """
    with _parquet_file(path) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    pyarrow = require("pyarrow", "pyarrow.parquet")
    try:
        # pyarrow would open a pipe or a device too.
        open_regular(path).close()
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowInvalid as cause:
        raise DataError(f"{path}: not a Parquet file: {cause}") from cause
