"""The user's folders on each system, against what the systems' own rules say, and their override."""

import subprocess
import sys
from pathlib import Path

import pytest
from platformdirs import macos, unix, windows

from visionward import paths
from visionward.cli.default_model import default_model_file
from visionward.formats.checked_files import marker_of

FOLDERS = (paths.cache_folder, paths.config_folder, paths.models_folder)
# XDG Base Directory Specification, Apple's File System Programming Guide, Windows' Known Folders.
SYSTEMS = {
    "linux": (unix.Unix, (".cache/visionward", ".config/visionward", ".local/share/visionward/models")),
    "macos": (
        macos.MacOS,
        (
            "Library/Caches/visionward",
            "Library/Application Support/visionward",
            "Library/Application Support/visionward/models",
        ),
    ),
    "windows": (
        windows.Windows,
        ("AppData/Local/visionward/Cache", "AppData/Local/visionward", "AppData/Local/visionward/models"),
    ),
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    for name in ("VISIONWARD_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(windows, "get_win_folder", lambda _name: str(tmp_path / "AppData" / "Local"))
    return tmp_path


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system(monkeypatch, home, system):
    kind, expected = SYSTEMS[system]
    monkeypatch.setattr(paths, "_SYSTEM", kind("visionward", appauthor=paths._SYSTEM.appauthor))
    assert [folder() for folder in FOLDERS] == [home / path for path in expected]


def test_one_folder_for_everything(monkeypatch, home, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "Ordner ä"))
    assert [folder() for folder in FOLDERS] == [tmp_path / "Ordner ä" / n for n in ("cache", "config", "models")]
    monkeypatch.setenv("VISIONWARD_HOME", "~/elsewhere")
    assert paths.config_folder() == home / "elsewhere" / "config"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISIONWARD_HOME", "here")
    assert paths.models_folder() == tmp_path / "here" / "models"


def test_what_is_stored_follows_it(monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "own"))
    assert default_model_file() == tmp_path / "own" / "config" / "default_model.json"
    assert marker_of(Path(__file__), "x").parent == tmp_path / "own" / "cache" / "checked"


def test_an_empty_variable_is_none(monkeypatch):
    usual = paths.cache_folder()
    monkeypatch.setenv("VISIONWARD_HOME", "")
    assert paths.cache_folder() == usual


def test_nothing_is_made_by_asking(monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "own"))
    subprocess.run([sys.executable, "-c", "from visionward.paths import *; models_folder()"], check=True, timeout=60)
    assert not (tmp_path / "own").exists()
