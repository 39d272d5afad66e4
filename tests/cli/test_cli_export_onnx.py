"""The export-onnx command, convert --onnx, and the options that choose what encodes images."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from fake_guard import SAFE

from visionward.convert import ConvertedPair
from visionward.formats.onnx_format import data_path, read_identity

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")


def test_exports_beside_the_mmproj_file(run, tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    mmproj = Path(shutil.copy(tiny_pair.mmproj, folder))
    result = run("export-onnx", mmproj)
    assert result.exit_code == 0, result.stderr
    tower = folder / "vision-tiny-f16.onnx"
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [str(tower), str(data_path(tower))]
    assert result.stderr == ""  # the text file that it would be used with is elsewhere
    assert read_identity(tower).weight_type == "f16"


def test_exports_where_it_is_told(run, tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    tower = tmp_path / "deep" / "er" / "mine.onnx"
    result = run("export-onnx", tiny_pair.mmproj, tower, "--type", "INT8")
    assert result.exit_code == 0, result.stderr
    assert read_identity(tower).weight_type == "int8"


@pytest.mark.parametrize("name", [None, "mine.onnx"])
def test_the_next_command_works_as_pasted(run, tiny_pair: ConvertedPair, tmp_path: Path, name: str | None) -> None:
    folder = tmp_path / "it's two words"
    folder.mkdir()
    _, mmproj = (Path(shutil.copy(path, folder)) for path in (tiny_pair.text, tiny_pair.mmproj))
    result = run("export-onnx", mmproj, *([] if name is None else [folder / name]))
    program, *arguments = shlex.split(result.stderr.splitlines()[-1])
    assert program == "visionward"
    assert ("--onnx-tower" in arguments) == (name is not None)
    verdict = run(*arguments, "--n-ctx", 2048, "--json")
    assert verdict.exit_code == 0, verdict.stderr
    # The faster one of both on this processor.
    assert json.loads(verdict.stdout)["vision_backend"] in ("onnx", "openvino")


def test_what_it_wrote_is_taken(program, tiny_pair: ConvertedPair, picture: Path, tmp_path: Path) -> None:
    """Both commands, as programs: the exported tower is found by itself, and named in the verdict."""
    text, mmproj = (Path(shutil.copy(path, tmp_path)) for path in (tiny_pair.text, tiny_pair.mmproj))
    classify = ("classify", "--model", text, "--mmproj", mmproj, "--image", picture, "--prompt", "Look", "--json")
    options = ("--n-ctx", "1024", "--threads", "1")
    refused = program(*classify, *options, "--vision-backend", "onnx")
    assert (refused.returncode, refused.stdout) == (2, "")
    command = refused.stderr.split("`")[1]
    assert command == f"visionward export-onnx {mmproj}"
    assert program(*command.split()[1:]).returncode == 0
    for backend in ("ggml", "onnx"):
        result = program(*classify, *options, "--vision-backend", backend)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["vision_backend"] == backend


def test_convert_exports_too(run, tiny_checkpoint_dir: Path, tmp_path: Path) -> None:
    result = run("convert", tiny_checkpoint_dir, tmp_path, "--onnx", "int8", "--name", "guard")
    assert result.exit_code == 0, result.stderr
    tower = tmp_path / "vision-guard-int8.onnx"
    assert [line.split("  ")[0] for line in result.stdout.splitlines()[2:]] == [str(tower), str(data_path(tower))]
    assert read_identity(tower).weight_type == "int8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.gguf",), "No such file"),
        (("{text}",), "expected 'clip'"),
        (("{mmproj}", "tower.bin"), "must end in .onnx"),
        (("{mmproj}", "--type", "q8_0"), "'q8_0' is not one of 'f16', 'f32', 'int8'"),
        (("{mmproj}", "--type", "int4"), "'int4' is not one of 'f16', 'f32', 'int8'"),
    ],
)
def test_one_clear_error(run, tiny_pair: ConvertedPair, tmp_path: Path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(text=tiny_pair.text, mmproj=tiny_pair.mmproj) for argument in arguments]
    result = run("export-onnx", *filled)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_options_reach_the_guard(run, guard, picture, monkeypatch) -> None:
    guard.enqueue(SAFE)
    monkeypatch.setenv("VISIONWARD_ONNX_TOWER", "from-environment.onnx")
    options = ("--onnx-provider", "CUDAExecutionProvider", "--memory-limit", "9 GB")
    assert run("classify", *PAIR, "--image", picture, *options).exit_code == 0
    ((_, _, loaded),) = guard.loads
    assert loaded["vision_backend"] == "auto"
    assert loaded["onnx_tower"] == Path("from-environment.onnx")
    assert loaded["onnx_provider"] == "CUDAExecutionProvider"
    assert loaded["memory_limit"] == 9 * 10**9
