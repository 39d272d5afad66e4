"""Comparing two benchmarks, and refusing what is none."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.diagnose.benchmark_comparison import Difference, compare, read_benchmark
from visionward.errors import DataError

OLD = {
    "program": "visionward bench",
    "format_version": 2,
    "environment": {
        "machine": {"processor": "A", "memory_limit_bytes": None},
        "settings": {"threads": 2, "vision_backend": "ggml"},
        "text": {"nbytes": 8, "text_hash": "ab"},
        "image": {"tiles": 4},
        "prompt": {"tokens": 200},
        "verdict": {"verdict": "unsafe", "decoded_tokens": 6},
    },
    "times_ms": {
        "load": {"min": 10.0, "median": 20, "p95": 40.0, "values": [10.0, 20.0, 41.0]},
        "decode": {"min": 0.0, "median": 8.0, "p95": 8.0, "values": [8.0]},
    },
    "rates": {"prefill_tokens_per_s": 50.0},
    "peak_memory_bytes": {"total": 1000, "anonymous": None, "file": 400},
    "other_cores": 0.0,
}


def changed(path, value):
    """OLD with one value replaced; ``...`` removes it."""
    new = copy.deepcopy(OLD)
    *groups, name = path
    place = new
    for group in groups:
        place = place[group]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return new


@pytest.fixture
def written(tmp_path):
    """``written(values)``: a file of them."""

    def write(values):
        path = tmp_path / "old.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return path

    return write


def test_ratios():
    new = copy.deepcopy(OLD)
    new["times_ms"]["load"] |= {"min": 5.0, "median": 30.0, "p95": 40.0}
    new["rates"]["prefill_tokens_per_s"] = 100.0
    new["peak_memory_bytes"] = {"total": 250, "anonymous": 7, "file": None}
    comparison = compare(OLD, new)
    assert comparison.differences == ()
    assert comparison.ratios == {
        "times_ms": {
            "load": {"min": 0.5, "median": 1.5, "p95": 1.0},
            "decode": {"min": None, "median": 1.0, "p95": 1.0},  # there is no ratio to zero
        },
        "rates": {"prefill_tokens_per_s": {"value": 2.0}},
        "peak_memory_bytes": {"total": {"value": 0.25}, "anonymous": {"value": None}, "file": {"value": None}},
    }


def test_decoding_nothing_is_not_compared():
    safe = changed(("environment", "verdict"), {"verdict": "safe", "decoded_tokens": 0})
    assert list(compare(safe, safe).ratios["times_ms"]) == ["load"]
    assert list(compare(safe, OLD).ratios["times_ms"]) == ["load", "decode"]


def test_rows_that_only_one_side_has():
    new = changed(("times_ms", "repeat_total"), OLD["times_ms"]["load"])
    none = {"min": None, "median": None, "p95": None}
    assert compare(OLD, new).ratios["times_ms"]["repeat_total"] == none
    assert compare(new, OLD).ratios["times_ms"]["repeat_total"] == none


@pytest.mark.parametrize("group", OLD["environment"])
def test_every_circumstance_that_differs_is_named(group):
    for name, before in OLD["environment"][group].items():
        found = compare(OLD, changed(("environment", group, name), "other"))
        assert found.differences == (Difference(f"{group} {name}", before, "other"),)
    assert compare(OLD, changed(("environment", group, "new"), 1)).differences == (Difference(f"{group} new", None, 1),)
    gone = compare(OLD, changed(("environment", group), ...)).differences
    assert {one.name for one in gone} == {
        f"{group} {name}" for name, value in OLD["environment"][group].items() if value is not None
    }


@given(st.floats(1e-6, 1e12), st.floats(0, 1e12))
def test_ratios_of_any_figures(old, new):
    ratio = compare(changed(("rates", "x"), old), changed(("rates", "x"), new)).ratios["rates"]["x"]["value"]
    assert ratio * old == pytest.approx(new, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(("old", "new"), [(1e-300, 1e300), (0, 0), (0.0, 5), (None, 1), (1, None), (None, None)])
def test_no_ratio(old, new):
    ratios = compare(changed(("rates", "x"), old), changed(("rates", "x"), new)).ratios["rates"]
    assert ratios["x"] == {"value": None}


def test_reading(written):
    assert read_benchmark(written(OLD)) == OLD
    # A benchmark that was itself compared counts for itself.
    assert read_benchmark(written(OLD | {"against": {"old": OLD}})) == OLD


FOREIGN = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ('{"program": "visionward bench", "program": "x"}', "is repeated in one object"),
    ('{"program": NaN}', "NaN is not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ([], "not a file that `visionward bench --json` wrote"),
    ({}, "not a file that"),
    ({"verdict": "safe"}, "not a file that"),
    (changed(("program",), "other"), "not a file that"),
    (changed(("format_version",), 1), "has format version 1, expected 2: measure again"),
    (changed(("format_version",), ...), "version None"),
    (changed(("format_version",), 3), "has format version 3, expected 2: it was written by a newer visionward"),
    (changed(("environment",), ...), "environment is NoneType, expected an object"),
    (changed(("environment", "machine"), "A"), "machine is str, expected an object"),
    (changed(("environment", "machine", "processor"), ["A"]), "machine processor is list, expected a plain value"),
    (changed(("times_ms",), []), "times_ms is list"),
    (changed(("times_ms", "load"), 3), "load is int, expected an object"),
    (changed(("times_ms", "load", "median"), ...), "median of load is None, expected a number"),
    (changed(("times_ms", "load", "p95"), "3"), "p95 of load is '3'"),
    (changed(("times_ms", "load", "min"), -1), "min of load is -1"),
    (changed(("times_ms", "load", "min"), True), "min of load is True"),
    (changed(("times_ms", "load", "min"), 10**400), "expected a number"),
    (changed(("rates",), None), "rates is NoneType"),
    (changed(("rates", "prefill_tokens_per_s"), {}), "prefill_tokens_per_s is {}"),
    (changed(("peak_memory_bytes", "total"), "much"), "total is 'much'"),
    (changed(("other_cores",), "few"), "other_cores is 'few'"),
]


@pytest.mark.parametrize(("values", "reason"), FOREIGN)
def test_what_is_no_benchmark(written, values, reason):
    path = written(values)
    with pytest.raises(DataError) as refusal:
        read_benchmark(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert reason in message


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "utf16.json").write_text("{}", encoding="utf-16")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_benchmark(tmp_path / "utf16.json")
    with pytest.raises(DataError, match="No such file"):
        read_benchmark(tmp_path / "none.json")
