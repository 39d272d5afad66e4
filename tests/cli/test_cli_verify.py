"""``visionward verify``."""

import json
import shutil
from pathlib import Path

import pytest
from gguf_edit import GgufFile

from visionward.convert import ConvertedPair
from visionward.convert.onnx_file import export_tower
from visionward.formats.onnx_format import data_path


@pytest.fixture
def pair(tiny_pair: ConvertedPair, tmp_path: Path) -> ConvertedPair:
    return ConvertedPair(Path(shutil.copy(tiny_pair.text, tmp_path)), Path(shutil.copy(tiny_pair.mmproj, tmp_path)))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def options(pair: ConvertedPair) -> list[object]:
    return ["--model", pair.text, "--mmproj", pair.mmproj]


def test_a_sound_pair(run, pair) -> None:
    result = run("verify", *options(pair))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{pair.text}  ")
    assert lines[0].endswith("  intact")
    assert lines[2] == "The files belong together."
    assert lines[3].startswith("The model sees images: two different pictures change the logits by ")


def test_as_json(run, pair) -> None:
    tower = export_tower(pair.mmproj, weight_type="f32")
    result = run("verify", *options(pair), "--onnx-tower", tower, "--json")
    found = json.loads(result.stdout)
    assert found["checksums"] is True
    assert [Path(file["file"]) for file in found["files"]] == [pair.text, pair.mmproj, tower, data_path(tower)]
    assert all(file["nbytes"] == Path(file["file"]).stat().st_size for file in found["files"])
    assert found["picture_difference"] > 0.01


@pytest.mark.parametrize("which", ["text", "mmproj"])
def test_a_damaged_file(run, pair, which: str) -> None:
    assert run("verify", *options(pair), "--files-only").exit_code == 0
    flip(getattr(pair, which), -100)
    result = run("verify", *options(pair), "--files-only")
    assert result.exit_code == 2
    assert "is damaged: tensor" in result.stderr
    assert not result.stdout


def test_a_damaged_tower(run, pair) -> None:
    tower = export_tower(pair.mmproj, weight_type="f32")
    flip(data_path(tower), 5000)
    result = run("verify", *options(pair), "--onnx-tower", tower, "--files-only")
    assert result.exit_code == 2
    assert f"{data_path(tower)} is damaged" in result.stderr


def test_a_tower_beside_the_pair_that_decayed(run, pair) -> None:
    """A guard takes it by itself, and does not read it again: it was found sound, and by its times did not change."""
    tower = export_tower(pair.mmproj, weight_type="f32")
    assert f"{data_path(tower)}  " in run("verify", *options(pair), "--files-only").stdout
    flip(data_path(tower), 5000)
    result = run("verify", *options(pair), "--files-only")
    assert result.exit_code == 2
    assert f"{data_path(tower)} is damaged" in result.stderr


def test_towers_beside_the_pair_that_are_not_its_own(run, pair, tmp_path: Path) -> None:
    (tmp_path / "vision-other.onnx").write_bytes(b"another program's")
    result = run("verify", *options(pair), "--files-only")
    assert result.exit_code == 0
    assert "vision-other" not in result.stdout


def test_files_without_checksums(run, pair) -> None:
    GgufFile(pair.mmproj).without_checksums().write(pair.mmproj)
    result = run("verify", *options(pair), "--files-only")
    assert result.exit_code == 1
    assert "no checksums: damage may go undetected" in result.stdout
    assert json.loads(run("verify", *options(pair), "--files-only", "--json").stdout)["checksums"] is False
