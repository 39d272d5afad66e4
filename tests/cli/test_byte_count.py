"""Amounts of memory on the command line."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.cli.byte_count import byte_count

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parsed(text: str | None) -> int | None:
    return byte_count(None, None, text)


@given(number=st.integers(1, 10**6), unit=st.sampled_from(sorted(UNITS)), space=st.sampled_from(["", " "]))
def test_sizes(number: int, unit: str, space: str) -> None:
    for text in (f"{number}{space}{unit}", f" {number}{space}{unit.lower()} ", f"{number}.0{unit.upper()}"):
        assert parsed(text) == number * UNITS[unit]


def test_parts_of_a_unit() -> None:
    assert parsed("9.5GiB") == 19 * 2**29
    assert parsed("0.5kB") == 500
    assert len(str(parsed("9" * 400 + "B"))) >= 400
    assert parsed(None) is None


@given(text=st.text(max_size=12))
def test_anything_else_is_no_size(text: str) -> None:
    number = text.strip().rstrip("BbIiKkMmGgTt ")
    try:
        size = parsed(text)
    except click.BadParameter:
        return
    assert size is not None
    assert float(number) > 0
    assert size >= 1


@pytest.mark.parametrize(
    "text", ["", "0GB", "0.1B", "-1GB", "9", "GiB", "9 gigabytes", "9,5GB", "1e3MB", "inf GB", "nan GB"]
)
def test_no_size(run, guard, picture, text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size; expected a number and a unit, such as 9GiB"):
        parsed(text)
    result = run("classify", *PAIR, "--image", picture, "--memory-limit", text)
    assert result.exit_code == 2
    assert guard.loads == []
