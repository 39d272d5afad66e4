"""``--model DIR``: the one pair in a folder, or an error that says how to choose."""

import json
import shlex
import shutil

import pytest
from fake_guard import SAFE
from gguf import GGUFWriter
from onnx_towers import copy_tower

from visionward.cli.model_folder import find_files
from visionward.convert import convert_checkpoint


@pytest.fixture
def folder(tiny_pair, tmp_path, monkeypatch):
    """The folder ``my models`` with a pair in it, and with files that are not part of a model."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "my models"
    made.mkdir()
    for path in (tiny_pair.text, tiny_pair.mmproj):
        shutil.copy(path, made)
    (made / "notes.txt").write_text("GGUF")
    for architecture in ("llama", "clip", "bert"):
        writer = GGUFWriter(made / f"other-{architecture}.gguf", architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    return made


@pytest.fixture
def loaded(run, guard):
    """``loaded(*options)``: the names of the files that classify loads."""

    def classify(*options, **more):
        guard.enqueue(SAFE)
        result = run("classify", *options, "--prompt", "hello", **more)
        assert result.exit_code == 0, result.stderr
        return tuple(path.name for path in guard.loads[-1][:2])

    return classify


@pytest.fixture
def refused(run, guard):
    """``refused(*options)``: the error, before anything is loaded."""

    def classify(*options):
        result = run("classify", *options, "--prompt", "hello")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
        assert guard.loads == []
        return result.stderr

    return classify


def test_the_pair(loaded, folder, tiny_pair):
    pair = (tiny_pair.text.name, tiny_pair.mmproj.name)
    assert loaded("--model", folder) == pair
    assert loaded(env={"VISIONWARD_MODEL": str(folder)}) == pair
    # A folder on the command line is the whole model; in the environment both variables belong together.
    assert loaded("--model", folder, env={"VISIONWARD_MMPROJ": "elsewhere.gguf"}) == pair
    shutil.copy(folder / tiny_pair.mmproj.name, folder.parent / "copy.gguf")
    assert loaded("--model", folder, "--mmproj", "copy.gguf") == (pair[0], "copy.gguf")


def test_inspect_takes_a_folder(run, folder, tiny_pair):
    summary = json.loads(run("inspect", "--json", "--model", folder).stdout)
    assert [summary[half]["file"]["file"] for half in ("text", "mmproj")] == [
        tiny_pair.text.name,
        tiny_pair.mmproj.name,
    ]


def test_several_of_one_kind(refused, loaded, folder, tiny_pair):
    mmproj, other = tiny_pair.mmproj.name, "zz-mmproj.gguf"
    shutil.copy(folder / mmproj, folder / other)
    sentence = refused("--model", folder)
    assert f"my models has 2 mmproj files ({mmproj}, {other}); choose, for example: " in sentence
    # What it says to do works as pasted.
    assert loaded(*shlex.split(sentence.partition("for example: ")[2])) == (tiny_pair.text.name, mmproj)
    assert loaded("--model", folder, "--mmproj", folder / other) == (tiny_pair.text.name, other)


def test_several_pairs(refused, folder, tiny_checkpoint_dir, tiny_pair):
    pair = convert_checkpoint(tiny_checkpoint_dir, folder, name="zz", text_type="f16", mmproj_type="f16")
    for name in (tiny_pair.text.name, tiny_pair.mmproj.name, pair.text.name, pair.mmproj.name):
        assert name in refused("--model", folder)


def test_another_models_file_does_not_count(loaded, folder, pair_of, tiny_pair):
    """Half of another conversion: only one text file belongs to an mmproj file."""
    shutil.copy(pair_of("plain").text, folder / "aa-text.gguf")
    assert loaded("--model", folder) == (tiny_pair.text.name, tiny_pair.mmproj.name)


def test_halves_of_two_models(refused, folder, pair_of, tiny_pair):
    (folder / tiny_pair.text.name).unlink()
    shutil.copy(pair_of("plain").text, folder / "aa-text.gguf")
    assert f"aa-text.gguf and {tiny_pair.mmproj.name} do not belong together" in refused("--model", folder)


def test_what_is_missing(refused, folder, tiny_pair):
    (folder / tiny_pair.mmproj.name).unlink()
    assert "my models has no mmproj file that `visionward convert` wrote" in refused("--model", folder)
    (folder / tiny_pair.text.name).unlink()
    sentence = refused("--model", folder)
    assert "has no text file and no mmproj file" in sentence
    assert sentence.endswith(f"visionward convert CHECKPOINT {shlex.quote(str(folder))}\n")


def test_a_damaged_file(loaded, folder, tiny_pair, caplog):
    (folder / "cut.gguf").write_bytes((folder / tiny_pair.text.name).read_bytes()[:1000])
    assert loaded("--model", folder) == (tiny_pair.text.name, tiny_pair.mmproj.name)
    assert "a file is left out: " in caplog.text
    assert "cut.gguf is damaged or truncated" in caplog.text


def test_damaged_files_alone(refused, folder, tiny_pair):
    text = folder / tiny_pair.text.name
    text.write_bytes(text.read_bytes()[:1000])
    assert f"{text.name} is damaged or truncated" in refused("--model", folder)


def test_the_tower_of_the_preferred_type(tower, pair, tower_of):
    """Beside towers of another type, and of another model."""
    folder = pair.mmproj.parent
    for name, weight_type in (("plain", "int8"), ("unlike", "f16")):
        copy_tower(tower_of(name, weight_type), folder / f"vision-{name}-{weight_type}.onnx")
    assert find_files(folder) == (pair.text, pair.mmproj, tower)
    tower.unlink()
    assert find_files(folder)[2] == folder / "vision-plain-int8.onnx"
