"""Read JSON files that people write by hand. Repeated keys, ``NaN`` and the like are errors."""

import json
import math
from collections.abc import Iterable
from os import PathLike
from typing import NoReturn, TypeVar

from visionward.errors import VisionwardError
from visionward.formats.whole_text import read_text

# A conversation may contain images as data URLs.
MAX_BYTES = 2**28

_Error = TypeVar("_Error", bound=VisionwardError)


def read_json(path: str | PathLike[str], error: type[_Error], max_bytes: int = MAX_BYTES) -> object:
    """The value in a UTF-8 JSON file (a byte order mark is allowed).

    Args:
        path: the file.
        error: the exception class to raise. The message names the file and, for a syntax error, line and column.
        max_bytes: maximum size of the file.

    Raises:
        error: if the file cannot be read, is not a regular file, is too large, is not UTF-8 or not JSON, repeats a key
            in an object (``json`` would keep the last value), or has ``NaN``, ``Infinity`` or a number that is too
            large.
    """
    try:
        text = read_text(path, max_bytes, "utf-8-sig")
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
        error: if it is not JSON (with line and column), is nested too deeply, repeats a key in an object (``json``
            would keep the last value), or has ``NaN``, ``Infinity`` or a number that is too large.
    """

    def unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise error(f"the key {key!r} is repeated in one object")
            found[key] = value
        return found

    def refuse(constant: str) -> NoReturn:
        raise error(f"{constant} is not JSON")

    def integer(digits: str) -> int:
        try:
            return int(digits)
        except ValueError as cause:  # beyond Python's limit on digits, which prevents quadratic time
            raise error(f"a number with {len(digits)} digits is too large") from cause

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise error(f"the number {digits[:20]} is too large")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=integer, parse_float=real)
    except json.JSONDecodeError as cause:
        raise error(f"not JSON: {cause}") from cause
    except RecursionError as cause:
        raise error("nested too deeply") from cause
