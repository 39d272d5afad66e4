"""Read a text file line by line, with a limit on the length of a line."""

import io
from collections.abc import Iterator
from pathlib import Path

from visionward.errors import DataError
from visionward.formats.regular_file import open_regular

# The same as the maximum size of a conversation file.
MAX_CHARACTERS = 2**28


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a regular UTF-8 file that are not blank, with their numbers from 1.

    Raises:
        DataError: if a line has more than ``MAX_CHARACTERS``.
        OSError: if the file cannot be read, or is not a regular file.
        UnicodeDecodeError: if it is not UTF-8.
    """
    number = 0
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
        while line := file.readline(MAX_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_CHARACTERS:
                raise DataError(f"{path}: line {number} has more than {MAX_CHARACTERS:,} characters")
            if line.strip():
                yield number, line
