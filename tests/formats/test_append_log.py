"""Logs: torn and damaged lines, full disks, and a second writer."""

import errno
import json
import os
import sys
import zlib

import pytest

from visionward.errors import DataError
from visionward.formats.append_log import AppendLog


def _read(path):
    found = {}
    log = AppendLog(path, found.__setitem__)
    return log, found


def _written(path, *objects):
    log, _ = _read(path)
    for one in objects:
        log.append(one)
    log.close()


def test_lines_are_json_with_the_checksum_of_the_rest(tmp_path):
    _written(tmp_path / "log", {"a": 1}, {"b": "é\n"})
    lines = (tmp_path / "log").read_text().splitlines()
    assert json.loads(lines[0]) == {"a": 1, "crc32": zlib.crc32(b'{"a": 1}')}
    log, found = _read(tmp_path / "log")
    assert list(found.values()) == [{"a": 1}, {"b": "é\n"}]
    assert [log.read(offset) for offset in found] == list(found.values())


def test_a_torn_line_is_removed_by_the_first_append_and_not_by_reading(tmp_path):
    path = tmp_path / "log"
    _written(path, {"a": 1}, {"b": 2})
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        path.write_bytes(whole[:-cut])
        log, found = _read(path)
        assert list(found.values()) == [{"a": 1}]
        assert path.read_bytes() == whole[:-cut]
        log.append({"c": 3})
        log.close()
        assert list(_read(path)[1].values()) == [{"a": 1}, {"c": 3}]


def test_zeros_that_a_power_cut_leaves_are_one_damaged_line(tmp_path):
    path = tmp_path / "log"
    _written(path, {"a": 1})
    path.write_bytes(path.read_bytes() + bytes(300))
    _written(path, {"b": 2})
    log, found = _read(path)
    assert (list(found.values()), log.damaged) == ([{"a": 1}, {"b": 2}], 0)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "log"
    first, late = _read(path)[0], _read(path)[0]
    first.append({"a": 1})
    with pytest.raises(DataError, match="another process is writing"):
        _read(path)[0].append({"b": 2})
    first.close()
    with pytest.raises(DataError, match="another process is writing"):
        late.append({"b": 2})
    assert list(_read(path)[1].values()) == [{"a": 1}]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "log"
    log, _ = _read(path)
    log.append({"a": 1})
    before = path.read_bytes()

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            log.append({"b": 2})
    assert path.read_bytes() == before
    log.append({"c": 3})
    assert list(_read(path)[1].values()) == [{"a": 1}, {"c": 3}]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_line_that_is_written_in_part_is_taken_back(tmp_path):
    """The system writes what fits, and refuses the rest."""
    import resource  # noqa: PLC0415

    path = tmp_path / "log"
    log, _ = _read(path)
    log.append({"a": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 7, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            log.append({"b": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    log.append({"c": 3})
    assert list(_read(path)[1].values()) == [{"a": 1}, {"c": 3}]
