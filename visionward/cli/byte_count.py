"""Amounts of memory on the command line, such as 9GiB."""

import re
from decimal import Decimal

import click

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)
_UNITS = {"b": 1} | {
    f"{prefix}{infix}b": base**power
    for power, prefix in enumerate("kmgt", 1)
    for infix, base in (("", 1000), ("i", 1024))
}


def byte_count(_ctx: click.Context | None, _parameter: click.Parameter | None, value: str | None) -> int | None:
    """The callback of options that take an amount of memory.

    Raises:
        click.BadParameter: if the value is not a number with a unit, or less than a byte.
    """
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    size = 0 if match is None else int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size < 1:
        raise click.BadParameter(f"{value!r} is not a size; expected a number and a unit, such as 9GiB or 9.5GB.")
    return size
