"""Journals: whole, damaged, interrupted."""

import json

import pytest

from visionward.compare.journal import FeatureError, Journal, Judged, Loaded
from visionward.errors import DataError
from visionward.formats.append_log import AppendLog


def test_journal_keeps_everything(tmp_path):
    journal = Journal(tmp_path, "my/model", {"a": 1})
    entries = [
        Loaded(1.5, 12, "CPU", 2),
        Judged("x", unsafe=True, score=0.75, categories=("S1", "S9"), times_ms={"total": 3.0}, kl=0.5),
        Judged("y", reason="no such file"),
        FeatureError("x", 0.01),
    ]
    for entry in entries:
        journal.append(entry)
    journal.close()
    again = Journal(tmp_path, "my/model", {"a": 1})
    assert (again.loaded, again.judged["x"], again.judged["y"], again.features["x"]) == tuple(
        [entries[0]] if i == 0 else entry for i, entry in enumerate(entries)
    )
    assert again.damaged == 0
    assert "/" not in again.path.name


def test_a_half_written_line_is_dropped(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.append(Judged("x", unsafe=False, score=0.1))
    journal.append(Judged("y", unsafe=False, score=0.1))
    journal.close()
    whole = journal.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        journal.path.write_bytes(whole[:-cut])
        again = Journal(tmp_path, "m", {})
        assert list(again.judged) == ["x"]
        again.append(Judged("z", unsafe=True, score=1.0))
        again.close()
        assert list(Journal(tmp_path, "m", {}).judged) == ["x", "z"]


def test_a_damaged_line_counts_as_missing(tmp_path):
    """Whatever bit of a line is wrong: what it said is judged again, and is never another verdict."""
    journal = Journal(tmp_path, "m", {})
    entries = [Judged(name, unsafe=True, score=0.75, categories=("S1",)) for name in ("x", "y", "z")]
    for entry in entries:
        journal.append(entry)
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines[1]) - 1):
        for bit in (0, 3, 6):
            changed = bytearray(lines[1])
            changed[place] ^= 1 << bit
            journal.path.write_bytes(lines[0] + bytes(changed) + lines[2])
            again = Journal(tmp_path, "m", {})
            assert again.judged == {"x": entries[0], "z": entries[2]}, bytes(changed)
            assert again.damaged


def _line_of_version(path, version):
    log = AppendLog(path, lambda _offset, _values: None)
    log.append({"version": version, "kind": "judged", "sample": "x", "unsafe": False, "score": 0.1})
    log.close()


def test_lines_of_an_older_version_count_as_missing(tmp_path):
    _line_of_version(Journal(tmp_path, "m", {}).path, 1)
    again = Journal(tmp_path, "m", {})
    assert (again.judged, again.damaged) == ({}, 1)


def test_a_journal_of_a_newer_version_is_refused(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.append(Judged("y", unsafe=True, score=0.9))
    journal.close()
    _line_of_version(journal.path, 3)
    with pytest.raises(DataError, match="has format version 3, expected 2: it was written by a newer visionward"):
        Journal(tmp_path, "m", {})


def test_other_settings_are_not_mixed(tmp_path):
    one, other = Journal(tmp_path, "m", {"threshold": 0.5}), Journal(tmp_path, "m", {"threshold": 0.6})
    one.append(Judged("x", unsafe=False, score=0.1))
    assert other.path != one.path
    assert other.judged == {}
    assert other.others() == [one.path]
    assert Journal(tmp_path, "m-2", {}).others() == []


def test_journal_lines_are_json(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.append(Judged("x", unsafe=True, score=0.1))
    (line,) = journal.path.read_text().splitlines()
    assert json.loads(line)["kind"] == "judged"
