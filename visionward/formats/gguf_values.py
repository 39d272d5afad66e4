"""What a key of a GGUF file must hold: each function takes a value as it stands in the file, and raises on any other.

``GgufHeader.get`` turns what they raise into a ModelFileError that names the file and the key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class StringArray:
    """Where an array of strings begins in its file, and how many there are."""

    offset: int
    count: int


def text(value: Any) -> str:
    """A string, and nothing else, from a file's value."""
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value


def truth(value: Any) -> bool:
    """A boolean from a file's value."""
    if not isinstance(value, bool):
        raise TypeError(f"found {type(value).__name__}, expected true or false")
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Whole numbers of a range, both ends included, from a file's value."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"found {_shown(value)}, expected a whole number from {low} to {high}")
        return value

    return convert


def number(low: float, high: float) -> Callable[[Any], float]:
    """Numbers of a range, both ends included, from a file's value."""

    def convert(value: Any) -> float:
        # False for what is no number, too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"found {_shown(value)}, expected a number from {low:g} to {high:g}")
        return float(value)

    return convert


def each(convert: Callable[[Any], T], most: int) -> Callable[[Any], tuple[T, ...]]:
    """Arrays of at most so many values, each of which is converted."""

    def convert_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"found {_shown(value)}, expected an array of at most {most} values")
        return tuple(convert(item) for item in value)

    return convert_all


def only(expected: T) -> Callable[[Any], T]:
    """One value and no other."""

    def convert(value: Any) -> T:
        if type(value) is not type(expected) or value != expected:
            raise ValueError(f"found {_shown(value)}, expected {expected!r}")
        return expected

    return convert


def strings(value: Any) -> StringArray:
    """An array of strings, which stays in the file until ``GgufHeader.strings`` reads it."""
    if not isinstance(value, StringArray):
        raise TypeError(f"found {_shown(value)}, expected an array of strings")
    return value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else f"{type(value).__name__} {str(value)[:40]!r}"


integers = each(whole(-(2**31), 2**31 - 1), most=65536)
