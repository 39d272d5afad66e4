"""Converters for the values of GGUF keys: each one takes a value as the file has it, and raises if it is not valid.

``GgufHeader.get`` turns the error into a ModelFileError that names the file and the key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class StringArray:
    """The offset of an array of strings in its file, and their number."""

    offset: int
    count: int


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value


def truth(value: Any) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"found {type(value).__name__}, expected true or false")
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A converter for integers in a range, both ends included."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"found {_shown(value)}, expected an integer from {low} to {high}")
        return value

    return convert


def number(low: float, high: float) -> Callable[[Any], float]:
    """A converter for numbers in a range, both ends included."""

    def convert(value: Any) -> float:
        # The comparison is false for NaN, too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"found {_shown(value)}, expected a number from {low:g} to {high:g}")
        return float(value)

    return convert


def each(convert: Callable[[Any], T], max_count: int) -> Callable[[Any], tuple[T, ...]]:
    """A converter for arrays of at most ``max_count`` values, each of which is converted."""

    def convert_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > max_count:
            raise ValueError(f"found {_shown(value)}, expected an array of at most {max_count} values")
        return tuple(convert(item) for item in value)

    return convert_all


def only(expected: T) -> Callable[[Any], T]:
    """A converter for a single valid value."""

    def convert(value: Any) -> T:
        if type(value) is not type(expected) or value != expected:
            raise ValueError(f"found {_shown(value)}, expected {expected!r}")
        return expected

    return convert


def strings(value: Any) -> StringArray:
    """An array of strings, which ``GgufHeader.strings`` reads when it is needed."""
    if not isinstance(value, StringArray):
        raise TypeError(f"found {_shown(value)}, expected an array of strings")
    return value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else f"{type(value).__name__} {str(value)[:40]!r}"


integers = each(whole(-(2**31), 2**31 - 1), max_count=65536)
