"""Names and identities of models."""

import dataclasses
from pathlib import Path

import pytest

from visionward.compare.models import Endpoint, GuardFiles, check_names
from visionward.errors import DataError, ModelFileError


def test_changed_files_have_another_identity(files):
    before = files.identity()
    assert files.identity() == before
    files.mmproj.write_bytes(b"GGUF" * 11)
    assert files.identity() != before


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
