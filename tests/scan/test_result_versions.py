"""Results of a scan by a newer version are refused and stay as they are."""

import json

import pytest

from visionward.errors import DataError
from visionward.formats.append_log import AppendLog
from visionward.scan.results import Results
from visionward.scan.shards import Shards

NEWER = "has format version 2, expected 1: it was written by a newer visionward, so update visionward."


def test_a_results_file(tmp_path):
    out = tmp_path / "results.jsonl"
    for settings in ("same", "another"):
        log = AppendLog(out, lambda _offset, _values: None)
        log.append({"format_version": 2, "settings": settings, "verdict": "new"})
        log.close()
        before = out.read_bytes()
        with pytest.raises(DataError) as refusal:
            Results(out, "same")
        assert str(refusal.value) == f"{out} {NEWER}"
        assert out.read_bytes() == before


def test_a_folder_of_shards(tmp_path):
    Shards(tmp_path / "out").prepare("same")
    Shards(tmp_path / "out").prepare("same")
    path = tmp_path / "out" / "_scan.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "format_version": 2, "settings": ["another form"]}))
    with pytest.raises(DataError) as refusal:
        Shards(tmp_path / "out").prepare("same")
    assert str(refusal.value) == f"{path} {NEWER}"
    # Before there were versions.
    path.write_text(json.dumps({"settings": "same"}))
    Shards(tmp_path / "out").prepare("same")
