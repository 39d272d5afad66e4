"""Sizes, durations and shares: the digits that are shown are those of the number."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.quantities import (
    count_text,
    duration_text,
    measured_text,
    percent_text,
    size_text,
    time_left_text,
)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (4_912_000_000, "4.91 GB"),
        (16_060_000_000, "16.1 GB"),
        (123_456_789_012, "123 GB"),
        (4_321_000_000_000, "4321 GB"),
    ],
)
def test_size_text(nbytes, text):
    assert size_text(nbytes) == text


@given(st.integers(1000, 10**12 - 1))
def test_a_size_is_right_to_three_digits(nbytes):
    number, unit = size_text(nbytes).split()
    assert re.fullmatch(r"\d\.\d\d|\d\d\.\d|\d{3,4}", number)
    shown = Decimal(number) * {"kB": 1000, "MB": 10**6, "GB": 10**9}[unit]
    assert abs(shown - nbytes) <= Decimal("0.0051") * nbytes


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 ms"), (0.4, "0 ms"), (412.3, "412 ms"), (999.4, "999 ms"), (999.6, "1.0 s"), (74_000, "74.0 s")],
)
def test_duration_text(milliseconds, text):
    assert duration_text(milliseconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.014, "0.01 ms"), (85.762, "85.76 ms"), (112.6, "113 ms"), (9999.4, "9999 ms"), (12_340, "12.3 s")],
)
def test_measured_text(milliseconds, text):
    assert measured_text(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
    ],
)
def test_time_left_text(seconds, text):
    assert time_left_text(seconds) == text


def test_shares_and_counts():
    assert percent_text(0.314) == "31 %"
    assert percent_text(0.314, 1) == "31.4 %"
    assert count_text(1, "tile") == "1 tile"
    assert count_text(1024, "token") == "1,024 tokens"
    assert count_text(2, "matrix", "matrices") == "2 matrices"
