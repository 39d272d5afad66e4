"""The band of ``max_tiles="auto"``: its ends, its file, and what it holds for."""

import json
import math
from dataclasses import replace

import pytest

from visionward.errors import DataError, ModelFileError, PolicyError
from visionward.formats.file_hash import file_hash
from visionward.formats.tile_band import LearntFrom, TileBand

LEARNT = LearntFrom("t" * 64, "m" * 64, False, "p" * 64, 0.5, 300, 4, 0.0157)
BAND = TileBand(0.2, 0.75, LEARNT)


@pytest.mark.parametrize("text", ["0.2,0.75", " 0.2 , 0.75 ", ".2,7.5e-1"])
def test_two_numbers(text):
    assert TileBand.parse(text) == TileBand(0.2, 0.75)


@pytest.mark.parametrize("text", ["0.75,0.2", "-0.1,0.5", "0.5,1.1", "nan,0.5", "0,inf"])
def test_numbers_that_are_no_band(text):
    with pytest.raises(DataError, match="expected two numbers from 0 to 1"):
        TileBand.parse(text)


@pytest.mark.parametrize("text", ["no-such-file", "0.5", "a,b", "0.1,0.2,0.3"])
def test_neither_numbers_nor_a_file(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        TileBand.parse(text)


def test_scores_in_the_band():
    assert [BAND.holds(score) for score in (0.0, 0.1999, 0.2, 0.5, 0.75, 0.7501, 1.0, math.nan)] == [
        False, False, True, True, True, False, False, True,
    ]  # fmt: skip


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "band.json"
    path.write_text(BAND.to_json())
    assert TileBand.parse(str(path)) == BAND


def _write(tmp_path, change):
    values = json.loads(BAND.to_json())
    change(values)
    path = tmp_path / "band.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda v: v.update(format="other"), "is not a band of tiles"),
        (lambda v: v.update(version=2), "has format version 2, expected 1"),
        (lambda v: v.pop("low"), "is damaged"),
        (lambda v: v.update(low="0.2"), "is damaged"),
        (lambda v: v.update(low=0.9), "is damaged"),
        (lambda v: v.pop("learnt_from"), "is damaged"),
        # A band without its origin would be taken for any model.
        (lambda v: v.update(learnt_from=None), "is damaged"),
        (lambda v: v["learnt_from"].pop("text"), "is damaged"),
        (lambda v: v["learnt_from"].update(threshold=True), "is damaged"),
        (lambda v: v["learnt_from"].update(samples="300"), "is damaged"),
        (lambda v: v["learnt_from"].update(further=1), "is damaged"),
    ],
)
def test_damaged_files(tmp_path, change, error):
    with pytest.raises(DataError, match=error):
        TileBand.read(_write(tmp_path, change))


def test_text_that_is_not_json(tmp_path):
    path = tmp_path / "band.json"
    path.write_text(BAND.to_json()[:-20])
    with pytest.raises(DataError, match="not JSON"):
        TileBand.read(path)


def test_the_threshold_is_in_the_band():
    TileBand(0.2, 0.75).check_verdict(0.2, "any")
    for threshold in (0.1, 0.8):
        with pytest.raises(PolicyError, match=rf"the threshold {threshold} is outside the band 0\.2 to 0\.75"):
            TileBand(0.2, 0.75).check_verdict(threshold, "any")


def test_a_learnt_band_holds_for_its_threshold_and_policy():
    BAND.check_verdict(0.5, LEARNT.policy)
    with pytest.raises(PolicyError, match=r"learnt with the threshold 0\.5"):
        BAND.check_verdict(0.4, LEARNT.policy)
    with pytest.raises(PolicyError, match="learnt with other categories"):
        BAND.check_verdict(0.5, "other")


def test_a_learnt_band_holds_for_its_model(tmp_path):
    text, mmproj = tmp_path / "text.gguf", tmp_path / "mmproj.gguf"
    text.write_bytes(b"text")
    mmproj.write_bytes(b"mmproj")
    band = replace(BAND, learnt_from=replace(LEARNT, text=file_hash(text), mmproj=file_hash(mmproj)))
    band.check_model(text, mmproj, exported_tower=False)
    TileBand(0.2, 0.75).check_model(text, tmp_path / "missing", exported_tower=True)
    with pytest.raises(ModelFileError, match="learnt with ggml's vision tower"):
        band.check_model(text, mmproj, exported_tower=True)
    text.write_bytes(b"texT")
    with pytest.raises(ModelFileError, match="was not learnt with"):
        band.check_model(text, mmproj, exported_tower=False)
