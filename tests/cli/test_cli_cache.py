"""``visionward cache``: what was written, and its removal."""

import json
import os
import shutil
from pathlib import Path

import pytest

from visionward.convert import demo_guard
from visionward.formats.checked_files import marker_of, remember
from visionward.formats.onnx_format import data_path
from visionward.paths import cache_folder, models_folder
from visionward.runtime.ggml import kernel_probe
from visionward.runtime.vision.compiled_cache import COMPILED_FOLDER

NAMES = ("demo-guard", "kernels", "compiled", "checked", "other", "towers")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with something of each kind, written by the functions that write it."""
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "Ordner ä"))
    demo_guard.demo_pair.cache_clear()
    pair = demo_guard.demo_pair()
    demo_guard.demo_pair.cache_clear()
    assert pair.text.is_relative_to(cache_folder())
    kernels = kernel_probe._cache_file([Path(__file__)], "processor", ["plain"])
    kernel_probe._write_cache(kernels, [kernel_probe.KernelResult("plain", "works", "", ())])
    remember(marker_of(Path(__file__), "x"))
    compiled = cache_folder() / COMPILED_FOLDER / "onnx-0-0"
    compiled.mkdir(parents=True)
    (compiled / "tower.onnx").write_bytes(bytes(17))
    (cache_folder() / "of_version_9").mkdir()
    (cache_folder() / "of_version_9" / "file").write_bytes(b"12345")
    return cache_folder()


def listed(run) -> dict[str, dict]:
    result = run("cache", "--json")
    assert result.exit_code == 0, result.output
    return {entry["name"]: entry for entry in json.loads(result.stdout)["files"]}


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_everything_in_the_cache_is_listed_and_removed(run, cache):
    found = listed(run)
    assert tuple(found) == NAMES
    assert sum(entry["nbytes"] for entry in found.values()) == sum(path.stat().st_size for path in files_in(cache))
    assert found["demo-guard"]["nbytes"] > 1e7
    assert found["kernels"]["nbytes"] > 10
    assert found["compiled"]["nbytes"] == 17
    assert len(found["checked"]["paths"]) == 3
    assert found["other"]["nbytes"] == 5
    lines = run("cache").stdout.splitlines()
    assert lines[0] == f"Cache: {cache}"
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)

    assert (
        run("cache", "clear", "kernels", "compiled", "other").stdout.splitlines()[0]
        == f"Removed from the cache: {cache}"
    )
    left = listed(run)
    assert [name for name in NAMES if left[name]["paths"]] == ["demo-guard", "checked"]
    assert run("cache", "clear", "--all").exit_code == 0
    assert files_in(cache) == []
    assert run("cache", "clear", "--all").exit_code == 0


def test_a_tower_is_removed_only_by_its_name(run, tower, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "home"))
    models_folder().mkdir(parents=True)
    others = [models_folder() / "vision-other.onnx", models_folder() / "model.gguf"]
    for path in others:
        path.write_bytes(b"not exported by visionward")
    pair = sorted(tower.parent.glob("*.gguf"))
    assert run("use", tower.parent).exit_code == 0
    assert listed(run)["towers"]["paths"] == [str(tower), str(data_path(tower))]
    run("cache", "clear", "--all")
    assert tower.is_file()
    assert run("cache", "clear", "towers").exit_code == 0
    assert not tower.exists()
    assert not data_path(tower).exists()
    assert all(path.is_file() for path in (*others, *pair))


def test_what_is_being_written_stays(run, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path))
    folder = tmp_path / "cache" / "demo-guard" / ".converting-1"
    folder.mkdir(parents=True)
    run("cache", "clear", "--all")
    assert folder.is_dir()
    os.utime(folder, (0, 0))
    run("cache", "clear", "demo-guard")
    assert not folder.exists()


def test_links_are_not_followed(run, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "home"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("content")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "link").symlink_to(tmp_path / "mine")
    assert run("cache", "clear", "--all").exit_code == 0
    assert not (cache_folder() / "link").is_symlink()
    assert (tmp_path / "mine" / "file").read_text() == "content"


def test_a_file_that_cannot_be_removed(run, monkeypatch, tmp_path):
    """As on Windows, when a program has it open."""
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path))
    (cache_folder() / "kernels").mkdir(parents=True)
    (cache_folder() / "kernels" / "a.json").write_text("[]")

    def in_use(path: Path, **_options: object) -> None:
        raise PermissionError(13, "The process cannot access the file", str(path))

    monkeypatch.setattr(Path, "unlink", in_use)
    result = run("cache", "clear", "kernels")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "a.json cannot be removed (The process cannot access the file): end the programs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("clear",), "name what to remove (demo-guard, kernels, compiled, checked, other, towers), or use --all"),
        (("clear", "kernels", "--all"), "or use --all"),
        (("clear", "models"), "there is no 'models' to remove; choose among demo-guard, kernels,"),
        (("--all",), "--all is an option of `visionward cache clear`"),
        (("wipe",), "'wipe'"),
    ],
)
def test_wrong_arguments(run, arguments, fragment):
    result = run("cache", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert fragment in result.stderr


def test_it_works_without_a_cache_and_with_a_default_model_that_is_gone(run, pair, monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "home"))
    assert run("use", pair.text, pair.mmproj).exit_code == 0
    shutil.rmtree(cache_folder(), ignore_errors=True)
    pair.text.unlink()
    assert all(entry["nbytes"] == 0 for entry in listed(run).values())
