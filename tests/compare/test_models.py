"""Names and identities of models."""

import dataclasses
from pathlib import Path

import pytest

from visionward.compare.models import Endpoint, GuardFiles, check_names
from visionward.errors import DataError, ModelFileError, VisionwardError
from visionward.formats.tile_band import TileBand


def test_changed_files_have_another_identity(files):
    before = files.identity()
    assert files.identity() == before
    files.mmproj.write_bytes(b"GGUF" * 11)
    assert files.identity() != before


def test_a_folder_stands_for_its_files(tmp_path):
    folder = tmp_path / "a,b=c"
    folder.mkdir()
    found = folder / "guard-Q4.gguf", folder / "m.gguf", folder / "vision-guard-int8.onnx"
    find = {folder: found}.__getitem__
    assert GuardFiles.parse(str(folder), find) == GuardFiles("guard-Q4 vision-guard-int8", *found)
    assert GuardFiles.parse(f"q4={folder};max_tiles=1", find) == GuardFiles("q4", *found, max_tiles=1)
    with pytest.raises(DataError, match="is not a pair"):
        GuardFiles.parse(f"q4={tmp_path}/none", find)


def test_names_and_forms(files):
    parsed = GuardFiles.parse("q4=/a,b/text.gguf,/c/mmproj.gguf")
    assert parsed == GuardFiles("q4", Path("/a,b/text.gguf"), Path("/c/mmproj.gguf"))
    assert GuardFiles.parse("/x=y/text.gguf,/c/m.gguf").text == Path("/x=y/text.gguf")
    assert GuardFiles.parse("models/guard-Q8_0.gguf,m.gguf").name == "guard-Q8_0"
    three = GuardFiles.parse("models/guard-Q8_0.gguf,m.gguf, vision-guard-int8.onnx")
    assert three == GuardFiles(
        "guard-Q8_0 vision-guard-int8", Path("models/guard-Q8_0.gguf"), Path("m.gguf"), Path("vision-guard-int8.onnx")
    )
    assert GuardFiles.parse("i8=t.gguf,m.gguf,v.ONNX") == GuardFiles(
        "i8", Path("t.gguf"), Path("m.gguf"), Path("v.ONNX")
    )
    assert GuardFiles.parse("a\udcffb\u202e.gguf,m.gguf").name == r"a\udcffb\u202e"
    for bad in ("", "text.gguf", "a=,b", "a=text.gguf,", "a=text.gguf,v.onnx", "a=,m.gguf,v.onnx", "v.onnx"):
        with pytest.raises(DataError):
            GuardFiles.parse(bad)
    assert Endpoint.parse("gpt=https://host/v1/,org/m,odel", "zero-shot").model == "org/m,odel"
    for bad in ("gpt", "gpt=host,m", "gpt=ftp://h,m", "=http://h,m", "gpt=http://h", "gpt=http://u:p@h/v1,m"):
        with pytest.raises(DataError):
            Endpoint.parse(bad, "guard")
    with pytest.raises(DataError, match="two models are named 'model'"):
        check_names([files, files])
    with pytest.raises(ModelFileError):
        dataclasses.replace(files, text=Path("missing.gguf")).identity()


def test_settings_behind_a_pair():
    one = GuardFiles.parse("fast=t.gguf,m.gguf;max_tiles=1")
    assert one == GuardFiles("fast", Path("t.gguf"), Path("m.gguf"), max_tiles=1)
    assert one.setting == "max_tiles 1"
    auto = GuardFiles.parse("t.gguf,m.gguf,v.onnx; max_tiles=auto ;band=0.1,0.9")
    assert (auto.name, auto.max_tiles, auto.band) == ("t v max_tiles=auto band=0.1,0.9", "auto", TileBand(0.1, 0.9))
    assert auto.setting == "max_tiles auto, band 0.1 to 0.9"
    # A semicolon may be part of a name.
    assert GuardFiles.parse("a;b/t.gguf,m.gguf").text == Path("a;b/t.gguf")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("max_tiles=0", "max_tiles is '0', expected a number of tiles or auto"),
        ("max_tiles=", "max_tiles is ''"),
        ("threads=2", "unknown setting 'threads' behind a pair; choose max_tiles or band"),
        ("max_tiles=1;max_tiles=2", "the setting max_tiles is given twice"),
        ("max_tiles=auto", "need each other"),
        ("max_tiles=1;band=0.1,0.9", "need each other"),
        ("max_tiles=auto;band=0.9,0.1", "expected two numbers"),
    ],
)
def test_settings_that_are_none(settings, error):
    with pytest.raises(VisionwardError, match=error):
        GuardFiles.parse(f"t.gguf,m.gguf;{settings}")


def test_results_of_other_settings_are_others(tmp_path):
    for name in ("t", "m"):
        (tmp_path / name).write_bytes(b"x")
    values = ["", ";max_tiles=1", ";max_tiles=2", ";max_tiles=auto;band=0,1", ";max_tiles=auto;band=0,0.9"]
    identities = [GuardFiles.parse(f"{tmp_path}/t,{tmp_path}/m{value}").identity() for value in values]
    assert len(set(identities)) == len(values)
