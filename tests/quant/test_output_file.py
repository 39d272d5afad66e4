"""What a command writes replaces no input, nothing of another kind, and nothing at all unless it was told to."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_checkpoint import IMAGE_TOKEN_ID

from visionward.cli.main import cli
from visionward.compare.datasets import remove_images
from visionward.compare.report_files import check_folder, report_outputs
from visionward.convert import convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.errors import OutputError
from visionward.formats.imatrix_file import Statistics, write_imatrix
from visionward.formats.onnx_format import data_path, read_identity
from visionward.formats.output_file import GGUF, Outputs, part_files
from visionward.quant.quantize import quantize_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links")


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def write(tmp_path):
    """Write ``out.gguf`` next to ``in.gguf``, as a command does."""
    (tmp_path / "in.gguf").write_bytes(b"GGUF of the input")

    def write(name="out.gguf", meanwhile=lambda: None, *, overwrite=False):
        outputs = Outputs((tmp_path / name,), GGUF, (tmp_path / "in.gguf", tmp_path), overwrite)
        with part_files(outputs) as (part,):
            part.file.write(b"GGUF anew")
            meanwhile()

    return write


def test_a_new_file(write, tmp_path):
    write()
    assert (tmp_path / "out.gguf").read_bytes() == b"GGUF anew"


@pytest.mark.parametrize("old", [b"GGUF of old", b""])
def test_the_same_kind_is_replaced_when_it_is_asked_for(write, tmp_path, old):
    (tmp_path / "out.gguf").write_bytes(old)
    with pytest.raises(OutputError, match=r"out\.gguf exists: choose another name, or replace it with --force"):
        write()
    assert (tmp_path / "out.gguf").read_bytes() == old
    write(overwrite=True)
    assert (tmp_path / "out.gguf").read_bytes() == b"GGUF anew"


@pytest.mark.parametrize("content", [b"GGU", b"\x89PNG\r\n", b"gguf", b"\0"])
def test_another_kind_never_is(write, tmp_path, content):
    (tmp_path / "out.gguf").write_bytes(content)
    with pytest.raises(OutputError, match=r"exists, but is another kind of file \(expected: GGUF file\)"):
        write(overwrite=True)
    assert (tmp_path / "out.gguf").read_bytes() == content


def test_an_input_by_any_name(write, tmp_path):
    os.link(tmp_path / "in.gguf", tmp_path / "hard.gguf")
    (tmp_path / "soft.gguf").symlink_to("in.gguf")
    (tmp_path / "folder").symlink_to(".")
    for name in ("in.gguf", "hard.gguf", "soft.gguf", "folder/in.gguf", "folder/./in.gguf"):
        with pytest.raises(OutputError, match=r"in\.gguf.* is an input and would be replaced"):
            write(name, overwrite=True)
    assert (tmp_path / "in.gguf").read_bytes() == b"GGUF of the input"


def test_a_case_insensitive_system(write, tmp_path, monkeypatch):
    """Where A and a are one file, only the system knows."""
    shutil.copy(tmp_path / "in.gguf", tmp_path / "IN.gguf")
    same = Path.samefile
    monkeypatch.setattr(Path, "samefile", lambda a, b: a.name.lower() == Path(b).name.lower() or same(a, b))
    with pytest.raises(OutputError, match="would be replaced"):
        write("IN.gguf", overwrite=True)


def test_what_is_no_file(write, tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "nowhere.gguf").symlink_to("missing.gguf")
    for name, what in (("folder", "a folder"), ("pipe", "not a regular file"), ("nowhere", "not a regular file")):
        with pytest.raises(OutputError, match=f"is {what} and is never replaced"):
            write(f"{name}.gguf", overwrite=True)
    with pytest.raises(OutputError, match="not a regular file"):
        Outputs((Path("/dev/null"),), GGUF, overwrite=True).check()


def test_what_appears_meanwhile_stays(write, tmp_path):
    target = tmp_path / "out.gguf"
    for content, overwrite in ((b"GGUF of another process", False), (b"a letter", True)):
        target.unlink(missing_ok=True)
        with pytest.raises(OutputError, match="exists"):
            write(meanwhile=lambda content=content: target.write_bytes(content), overwrite=overwrite)
        assert target.read_bytes() == content
        assert {path.name for path in tmp_path.iterdir()} == {"in.gguf", "out.gguf"}


def test_a_file_that_cannot_be_looked_at(write, tmp_path, monkeypatch):
    (tmp_path / "out.gguf").write_bytes(b"GGUF")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match="no permission"):
        write(overwrite=True)


@pytest.fixture
def no_work(monkeypatch):
    """Whoever begins to work before the outputs were looked at fails."""

    def refuse(*_arguments, **_options):
        pytest.fail("the work began")

    monkeypatch.setattr("visionward.quant.activations.compute_importance", refuse)
    monkeypatch.setattr("visionward.runtime.engine.Engine", refuse)
    monkeypatch.setattr("visionward.quant.quantize.quantize_text", refuse)
    monkeypatch.setattr("visionward.quant.quantize.MmprojQuantizer", refuse)
    monkeypatch.setattr("visionward.convert.conversion.write_tensor_data", refuse)
    monkeypatch.setattr("visionward.convert.onnx_file.TowerEmitter.model", refuse)
    monkeypatch.setattr("visionward.compare.comparison.judge_all", refuse)


@pytest.fixture
def place(tiny_pair, tmp_path):
    """A folder with whatever commands read."""
    shutil.copy(tiny_pair.text, tmp_path / "t.gguf")
    shutil.copy(tiny_pair.mmproj, tmp_path / "m.gguf")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "photo.png")
    (tmp_path / "data.jsonl").write_text(json.dumps({"image": "photo.png", "prompt": "x", "label": "safe"}))
    write_imatrix(
        tmp_path / "i.gguf",
        {"blk.0.attn_q.weight": Statistics(np.ones(256), 1)},
        dataset="x",
        samples=1,
        sample_tokens=1,
    )
    (tmp_path / "letter").write_text("Dear reader")
    (tmp_path / "tower.onnx.data").write_text("of somebody else")
    (tmp_path / "other.onnx").write_text("of somebody else")
    return tmp_path


PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")
IMATRIX = ("imatrix", *PAIR, "--data", "data.jsonl", "--out")
LOGITS = ("logits", *PAIR, "--tokens", f"1,{IMAGE_TOKEN_ID}", "--image", "photo.png", "--out")
COMPARE = ("compare", "--data", "data.jsonl", "--reference", "t.gguf,m.gguf", "--candidate", "a=t.gguf,m.gguf", "--out")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ((*IMATRIX, "data.jsonl"), "data.jsonl is an input and would be replaced"),
        ((*IMATRIX, "photo.png"), "photo.png is an input and would be replaced"),
        ((*IMATRIX, "./t.gguf"), "t.gguf is an input and would be replaced"),
        (
            (*IMATRIX, "letter"),
            "letter exists, but is another kind of file (expected: GGUF file)",
        ),
        ((*LOGITS, "photo.png"), "photo.png is an input and would be replaced"),
        (
            (*LOGITS, "letter"),
            "letter exists, but is another kind of file (expected: file of `visionward logits`)",
        ),
        ((*LOGITS, "t.gguf"), "t.gguf is an input and would be replaced"),
        (("quantize", "t.gguf", "i.gguf", "q4_0", "--imatrix", "i.gguf"), "i.gguf is an input and would be replaced"),
        (("quantize", "t.gguf", "t.gguf", "q4_0"), "t.gguf is an input and would be replaced"),
        (("quantize", "m.gguf", "m.gguf", "q4_0"), "m.gguf is an input and would be replaced"),
        (
            ("quantize", "m.gguf", "letter", "q4_0"),
            "letter exists, but is another kind of file (expected: GGUF file)",
        ),
        (
            ("export-onnx", "m.gguf", "tower.onnx"),
            "tower.onnx.data exists, but is another kind of file (expected: ONNX tower",
        ),
        (
            ("export-onnx", "m.gguf", "other.onnx"),
            "other.onnx exists, but is another kind of file (expected: ONNX tower",
        ),
    ],
)
def test_commands_refuse_before_they_work(place, monkeypatch, arguments, fragment, force):
    monkeypatch.chdir(place)
    before = contents(place)
    result = run(*arguments, *force)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert fragment in result.stderr
    assert contents(place) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json", "samples.csv"])
def test_compare_replaces_no_report_of_others(place, monkeypatch, name):
    monkeypatch.chdir(place)
    (place / name).write_text("a report on something else")
    before = contents(place)
    result = run(*COMPARE, ".")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert f"{name} exists, but is another kind of file (expected: file of a comparison's report)" in result.stderr
    assert contents(place) == before


def test_compare_keeps_its_inputs(place):
    (place / "work" / "images").mkdir(parents=True)
    data = shutil.copy(place / "data.jsonl", place / "work" / "images" / "data.jsonl")
    with pytest.raises(OutputError, match=r"data\.jsonl is in .*work, the folder for results so far"):
        check_folder(place, [data])
    check_folder(place / "elsewhere", [data])
    (place / "samples.csv").write_text("set,sample,group,label,categories\n")
    check_folder(place, [place / "letter"])
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        check_folder(place, [place / "samples.csv"])
    assert all(path.parent == place for path in report_outputs(place).paths)


def test_only_its_own_images_are_removed(tmp_path):
    for name in ("0" * 32, "holiday.jpg"):
        (tmp_path / name).write_bytes(b"x")
    remove_images(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    (tmp_path / "holiday.jpg").unlink()
    remove_images(tmp_path)
    assert not tmp_path.exists()
    remove_images(tmp_path)


def test_force_replaces_what_commands_wrote(place, monkeypatch):
    monkeypatch.chdir(place)
    commands = [
        (*IMATRIX, "new.gguf", "--threads", 1),
        (*LOGITS, "new.npz", "--threads", 1),
        ("quantize", "m.gguf", "q.gguf", "q8_0", "--threads", 1),
        ("export-onnx", "m.gguf", "new.onnx"),
    ]
    for arguments in commands:
        assert run(*arguments).exit_code == 0
        before = contents(place)
        again = run(*arguments)
        assert again.exit_code == 2
        assert "exists: choose another name, or replace it with --force" in again.stderr
        assert contents(place) == before
        result = run(*arguments, "--force")
        assert result.exit_code == 0, result.output
        assert contents(place).keys() == before.keys()
    read_identity(place / "new.onnx")


def test_conversions(tiny_checkpoint_dir, tmp_path):
    checkpoint = Path(shutil.copytree(tiny_checkpoint_dir, tmp_path / "tiny"))
    first = convert_checkpoint(checkpoint, checkpoint, onnx_type="f32")
    before = contents(tmp_path)
    for one in (first.text, first.mmproj, first.onnx_tower, data_path(first.onnx_tower)):
        content = one.read_bytes()
        for other in {first.text, first.mmproj, first.onnx_tower, data_path(first.onnx_tower)} - {one}:
            other.rename(other.with_suffix(".aside"))
        with pytest.raises(OutputError, match=f"{one.name} exists"):
            convert_checkpoint(checkpoint, checkpoint, onnx_type="f32")
        assert one.read_bytes() == content
        for aside in checkpoint.glob("*.aside"):
            names = {path.with_suffix(".aside"): path for path in before}
            aside.rename(names[aside])
        assert contents(tmp_path) == before
    convert_checkpoint(checkpoint, checkpoint, onnx_type="f32", overwrite=True)
    assert contents(tmp_path) == before


def test_a_conversion_keeps_its_checkpoint(tiny_checkpoint_dir, tmp_path):
    checkpoint = Path(shutil.copytree(tiny_checkpoint_dir, tmp_path / "tiny"))
    os.link(checkpoint / "model.safetensors", tmp_path / "tiny-text-F16.gguf")
    (tmp_path / "mmproj-tiny-F16.gguf").symlink_to(checkpoint / "config.json")
    before = contents(checkpoint)
    for left in ("tiny-text-F16.gguf", "mmproj-tiny-F16.gguf"):
        with pytest.raises(OutputError, match="is an input and would be replaced"):
            convert_checkpoint(checkpoint, tmp_path, overwrite=True)
        (tmp_path / left).unlink()
    assert contents(checkpoint) == before
    convert_checkpoint(checkpoint, tmp_path)


def test_weights_belong_to_their_tower(tiny_pair, tmp_path):
    tower = export_tower(tiny_pair.mmproj, tmp_path / "a.onnx")
    with pytest.raises(OutputError, match=r"a\.onnx\.data exists: choose"):
        export_tower(tiny_pair.mmproj, tower)
    # A graph that is damaged may be anything, and so may its weights.
    tower.write_bytes(tower.read_bytes()[:100])
    with pytest.raises(OutputError, match=r"a\.onnx\.data exists, but is another kind of file \(expected: ONNX tower"):
        export_tower(tiny_pair.mmproj, tower, overwrite=True)


def test_the_library_asks_too(f16_pair, tmp_path):
    target = tmp_path / "q.gguf"
    quantize_file(f16_pair.mmproj, target, "q8_0", threads=1)
    before = target.read_bytes()
    with pytest.raises(OutputError, match=r"overwrite=True"):
        quantize_file(f16_pair.mmproj, target, "q4_0", threads=1)
    assert target.read_bytes() == before
