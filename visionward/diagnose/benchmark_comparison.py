"""Comparing two benchmarks: the ratio of every figure, and every difference of the environment."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from visionward.diagnose.benchmark_report import FORMAT_VERSION, PROGRAM
from visionward.errors import DataError
from visionward.formats.format_version import check_format_version
from visionward.formats.strict_json import read_json

Values = Mapping[str, Any]
# JSON is a mapping of these.
_SCALARS = (str, int, float, bool, type(None))
STATISTICS = ("min", "median", "p95")


@dataclass(frozen=True)
class Difference:
    """A value of the environment that differs.

    Attributes:
        name: its group and name.
        old, new: its values; None if unknown or missing.
    """

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Comparison:
    """A benchmark against an older one.

    Attributes:
        ratios: new / old, by group (``times_ms``, ``rates``, ``peak_memory_bytes``), row, and statistic (``value``
            if there is only one); None if one side has no figure, or the old one is zero. The time of decoding is left
            out if neither verdict decoded anything.
        differences: the values of the environment that differ.
    """

    ratios: dict[str, dict[str, dict[str, float | None]]]
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return asdict(self)


def read_benchmark(path: str | PathLike[str]) -> dict[str, Any]:
    """What ``visionward bench --json`` wrote.

    Raises:
        DataError: if the file cannot be read, is of another program or another version, or a figure is not a number.
    """
    content = read_json(path, DataError)
    if not isinstance(content, dict) or content.get("program") != PROGRAM:
        raise DataError(f"{path}: not a file that `visionward bench --json` wrote.")
    check_format_version(os.fspath(path), content.get("format_version"), FORMAT_VERSION, DataError, "measure again")
    try:
        _check(content)
    except _DamagedError as error:
        raise DataError(f"{path}: damaged: {error}.") from error
    # That run's own comparison is not needed.
    content.pop("against", None)
    return content


class _DamagedError(Exception):
    """What is wrong with a file's values."""


def _check(content: Values) -> None:
    environment = _mapping(content, "environment")
    for group in environment:
        for name, value in _mapping(environment, group).items():
            if not isinstance(value, _SCALARS):
                raise _DamagedError(f"{group} {name} is {type(value).__name__}, expected a plain value")
    times = _mapping(content, "times_ms")
    for row in times:
        spread = _mapping(times, row)
        for statistic in STATISTICS:
            _check_number(spread.get(statistic), f"{statistic} of {row}")
    for group in ("rates", "peak_memory_bytes"):
        for row, value in _mapping(content, group).items():
            if value is not None:
                _check_number(value, row)
    if content.get("other_cores") is not None:
        _check_number(content["other_cores"], "other_cores")


def _mapping(values: Values, name: str) -> Values:
    found = values.get(name)
    if not isinstance(found, dict):
        raise _DamagedError(f"{name} is {type(found).__name__}, expected an object")
    return found


def _check_number(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise _DamagedError(f"{name} is {value!r}, expected a number")


def compare(old: Values, new: Values) -> Comparison:
    """Compare two benchmarks, as ``Benchmark.to_dict`` gives them or ``read_benchmark`` reads them."""
    ratios: dict[str, dict[str, dict[str, float | None]]] = {}
    for group in ("times_ms", "rates", "peak_memory_bytes"):
        rows = [*new[group], *(row for row in old[group] if row not in new[group])]
        ratios[group] = {row: _ratios(old[group].get(row), new[group].get(row)) for row in rows}
    if not any(side["environment"].get("verdict", {}).get("decoded_tokens") for side in (old, new)):
        # If nothing was decoded on either side, the ratio of microseconds means nothing.
        ratios["times_ms"].pop("decode", None)
    return Comparison(ratios, tuple(_differences(old["environment"], new["environment"])))


def _ratios(old: Values | float | None, new: Values | float | None) -> dict[str, float | None]:
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        sides = [side if isinstance(side, Mapping) else {} for side in (old, new)]
        return {name: _ratio(sides[0].get(name), sides[1].get(name)) for name in STATISTICS}
    return {"value": _ratio(old, new)}


def _ratio(old: float | None, new: float | None) -> float | None:
    if old is None or new is None or old == 0:
        return None
    # The quotient of two finite numbers need not be one.
    ratio = new / old
    return ratio if math.isfinite(ratio) else None


def _differences(old: Values, new: Values) -> list[Difference]:
    differences = []
    for group in [*new, *(group for group in old if group not in new)]:
        before, after = old.get(group, {}), new.get(group, {})
        for name in [*after, *(name for name in before if name not in after)]:
            if before.get(name) != after.get(name):
                differences.append(Difference(f"{group} {name}", before.get(name), after.get(name)))
    return differences
