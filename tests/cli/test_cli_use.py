"""``visionward use``: the default model."""

import shutil
from pathlib import Path

import pytest
from fake_guard import SAFE

from visionward.cli.default_model import default_model_file


@pytest.fixture
def folder(tiny_pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "models"
    made.mkdir()
    for path in (tiny_pair.text, tiny_pair.mmproj):
        shutil.copy(path, made)
    return made


def lines(*pair: Path) -> str:
    return f"Default model:\n  text    {pair[0]}\n  mmproj  {pair[1]}\n"


def test_a_folder(run, guard, folder, tiny_pair, monkeypatch):
    assert run("use").stdout == "There is no default model. Choose one: visionward use DIR\n"
    pair = folder / tiny_pair.text.name, folder / tiny_pair.mmproj.name
    assert run("use", "models").stdout == lines(*pair)
    assert run("use").stdout == lines(*pair)
    monkeypatch.chdir(folder)
    guard.enqueue(SAFE, SAFE, SAFE)
    assert run("classify", "--prompt", "hello").exit_code == 0
    # What is named is taken instead.
    assert run("classify", "--prompt", "hello", "--model", "t", "--mmproj", "m").exit_code == 0
    env = {"VISIONWARD_MODEL": "t2", "VISIONWARD_MMPROJ": "m2"}
    assert run("classify", "--prompt", "hello", env=env).exit_code == 0
    assert [load[:2] for load in guard.loads] == [pair, (Path("t"), Path("m")), (Path("t2"), Path("m2"))]
    assert run("inspect").exit_code == 0

    assert run("use", "--none").stdout == "There is no default model now.\n"
    assert run("use", "--none").exit_code == 0
    assert "no model was given" in run("classify", "--prompt", "hello").stderr


def test_two_files(run, folder, tiny_pair):
    pair = folder / tiny_pair.text.name, folder / tiny_pair.mmproj.name
    assert run("use", *(path.relative_to(folder.parent) for path in pair)).stdout == lines(*pair)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("models", "--none"), "--none excludes a model"),
        (("nowhere",), "nowhere is not a folder; name a folder, or two files"),
        (("nowhere", "m"), "cannot be read: No such file"),
        (("notes.txt", "notes.txt"), "is not a GGUF file"),
    ],
)
def test_what_is_no_model(run, folder, arguments, fragment):
    (folder.parent / "notes.txt").write_text("nothing")
    result = run("use", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert fragment in result.stderr
    assert not default_model_file().exists()


def test_files_that_are_gone(run, folder, tiny_pair):
    run("use", "models")
    (folder / tiny_pair.mmproj.name).unlink()
    result = run("classify", "--prompt", "hello")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert "part of the default model, does not exist: choose another with `visionward use DIR`" in result.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"text": "t"}', '{"text": 1, "mmproj": "m"}', "x" * 2**17])
def test_a_choice_that_cannot_be_read(run, content):
    default_model_file().parent.mkdir(parents=True)
    default_model_file().write_text(content)
    for command in (("use",), ("classify", "--prompt", "hello")):
        result = run(*command)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
        assert str(default_model_file()) in result.stderr


def test_a_choice_of_a_newer_version(run, folder):
    run("use", folder)
    default_model_file().write_text(
        default_model_file().read_text().replace('"format_version": 1', '"format_version": 2')
    )
    result = run("classify", "--prompt", "hello")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has format version 2, expected 1: it was written by a newer visionward" in result.stderr
    assert run("use", folder).exit_code == 0
    assert run("use").exit_code == 0


def test_a_folder_that_cannot_be_written(run, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    result = run("use", folder)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert "cannot be written" in result.stderr
