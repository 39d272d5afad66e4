"""Lines of files that somebody names."""

import io
from collections.abc import Iterator
from pathlib import Path

from visionward.errors import DataError
from visionward.formats.regular_file import open_regular

# As many as the bytes of a conversation file.
MOST_CHARACTERS = 2**28


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a regular UTF-8 file that are not blank, and their numbers from 1.

    Raises:
        DataError: a line has more than ``MOST_CHARACTERS``.
        OSError: the file cannot be read, or is no regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    number = 0
    with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
        while line := file.readline(MOST_CHARACTERS + 1):
            number += 1
            if len(line) > MOST_CHARACTERS:
                raise DataError(f"{path}: line {number} has more than {MOST_CHARACTERS:,} characters")
            if line.strip():
                yield number, line
