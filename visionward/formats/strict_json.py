"""Reading JSON files that people write by hand: what standard JSON readers let pass is an error here."""

import json
import math
from collections.abc import Iterable
from os import PathLike
from typing import NoReturn, TypeVar

from visionward.errors import VisionwardError
from visionward.formats.whole_text import read_text

# A conversation may hold its pictures as data URLs.
MOST_BYTES = 2**28

_Error = TypeVar("_Error", bound=VisionwardError)


def read_json(path: str | PathLike[str], error: type[_Error], most_bytes: int = MOST_BYTES) -> object:
    """The value in a UTF-8 JSON file (a byte order mark is allowed).

    Args:
        path: the file.
        error: the class to raise; its message names the file and, for bad syntax, the line and column.
        most_bytes: that the file may have.

    Raises:
        error: the file cannot be read, is no regular file, is larger than it may be, is not UTF-8, is not JSON, repeats
            a key in an object (a plain reader would silently keep the last one), or holds ``NaN``, ``Infinity`` or a
            number that is too large to be read.
    """
    try:
        text = read_text(path, most_bytes, "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not UTF-8 text (byte {cause.start})") from cause
    except OSError as cause:
        raise error(f"{path}: {cause.strerror or cause}") from cause
    except ValueError as cause:  # a NUL in the name
        raise error(f"{str(path)!r}: {cause}") from cause

    try:
        return parse_json(text, error)
    except error as cause:
        raise error(f"{path}: {cause}") from cause


def parse_json(text: str, error: type[_Error]) -> object:
    """The value of a JSON text.

    Raises:
        error: it is not JSON (with line and column), is nested too deeply, repeats a key in an object (a plain reader
            would silently keep the last one), or holds ``NaN`` or ``Infinity``.
    """

    def unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"the key {key!r} occurs twice in one object")
            found[key] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise error(f"{constant} is not JSON")

    def integer(digits: str) -> int:
        try:
            return int(digits)
        except ValueError as cause:  # past Python's limit on digits, which guards against quadratic time
            raise error(f"a number of {len(digits)} digits is too large to be read") from cause

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise error(f"the number {digits[:20]} is too large to be read")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=integer, parse_float=real)
    except json.JSONDecodeError as cause:
        raise error(f"not JSON: {cause}") from cause
    except RecursionError as cause:
        raise error("nested too deeply") from cause
