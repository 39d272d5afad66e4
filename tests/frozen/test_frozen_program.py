"""A program that PyInstaller froze, run without Python, and compared with the same program on Python.

The optional packages of the development environment are left out of the build, as they are from a user's.
"""

import importlib.metadata
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from optional_modules import WITHOUT_OPTIONAL

pytestmark = pytest.mark.frozen

PROGRAM = Path(__file__).with_name("program.py")
ROOT = PROGRAM.parents[2]
MAX_BYTES = 250 * 10**6


def freeze(folder, *options, **variables):
    """A plain build of one folder; what lies in it."""
    done = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", *WITHOUT_OPTIONAL, *options, str(PROGRAM)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # A path as users have them: with blanks and letters beyond ASCII.
    place = folder / "Ein schöner Ordner 図"
    shutil.move(folder / "dist" / "program", place)
    return place


def run_frozen(place, folder, **variables):
    """Run the frozen program where no Python is found and its own folder cannot be written (root could)."""
    files = [place, *place.rglob("*")]
    modes = {path: path.stat().st_mode for path in files if not path.is_symlink()}
    environment = {"HOME": str(folder / "home"), "PATH": str(folder), **variables}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        answer = run([place / "program"], folder, environment)
        assert {place, *place.rglob("*")} == {*files}
        return answer
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def run(command, folder, environment):
    done = subprocess.run(
        [*map(str, command), str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def sizes(place):
    """Bytes of each part of a bundle, links not counted."""
    parts = {}
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = "/".join(path.relative_to(place).parts[:3])
            parts[part] = parts.get(part, 0) + path.stat().st_size
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.fail("PyInstaller is not installed: pip install -e '.[dev,desktop]'")
    return freeze(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def frozen(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    return {**run_frozen(bundle, folder), "starts": (folder / "starts").read_text()}


@pytest.fixture(scope="module")
def unfrozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unfrozen")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    return {**run([sys.executable, PROGRAM], folder, environment), "starts": (folder / "starts").read_text()}


def test_it_runs_frozen_once_and_its_children_do_not_run_it_again(frozen, unfrozen):
    assert (frozen["frozen"], unfrozen["frozen"]) == (True, False)
    assert (frozen["starts"], unfrozen["starts"]) == ("x", "x")


@pytest.mark.parametrize("which", ["demo", "process", "q4_k_m"])
def test_verdicts_are_equal_bit_by_bit(frozen, unfrozen, which):
    assert frozen[which] == unfrozen[which]
    assert frozen[which][0] == "unsafe"
    assert frozen[which][-1] == ("onnx" if which == "q4_k_m" else "ggml")


def test_the_kernels_are_tried_in_children(frozen, unfrozen):
    assert frozen["kernels"] == unfrozen["kernels"]
    assert frozen["kernels"]["plain"] == "works"


def test_doctor_has_all_versions_and_misses_nothing(frozen):
    assert frozen["versions"] == {name: version_of(name) for name in frozen["versions"]}
    assert frozen["versions"]["visionward"]
    assert frozen["advice"] == []


def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_each_library_is_there_and_mapped_once(frozen, bundle):
    files = [path for path in bundle.rglob("*") if "ggml" in path.name or "libllama" in path.name]
    contents = [path.read_bytes() for path in files if path.is_file() and not path.is_symlink()]
    assert len(contents) == len(set(contents)) >= 4
    names = [Path(path).name for path in frozen["mapped"]]
    assert len({name.partition(".")[0] for name in names}) == len(names) == 4


def test_the_bundle_is_small(bundle):
    parts = sizes(bundle)
    largest = "\n".join(f"{size / 1e6:8.1f} MB  {part}" for part, size in [*parts.items()][:10])
    print(f"\n{sum(parts.values()) / 1e6:8.1f} MB\n{largest}")  # noqa: T201 - shown with -s
    assert sum(parts.values()) < MAX_BYTES, largest


def test_a_missing_library_is_named_with_its_place_and_the_hook(bundle, tmp_path):
    library = bundle / "_internal" / "llama_cpp" / "lib"
    library.rename(library.with_name("away"))
    try:
        error = run_frozen(bundle, tmp_path)["error"]
    finally:
        library.with_name("away").rename(library)
    assert error.startswith("NativeLibraryError: llama.cpp cannot be loaded in this frozen program (")
    assert f"libggml.so and libllama.so were sought in {library}." in error
    assert "hook-llama_cpp.py" in error
    assert "pip" not in error


@pytest.mark.parametrize(("user", "kept"), [("llama_cpp.llama", False), ("app", True)])
def test_the_library_for_chats_about_images_is_kept_if_it_is_used(monkeypatch, tmp_path, user, kept):
    from PyInstaller.config import CONF  # noqa: PLC0415

    class Api:
        graph = types.SimpleNamespace(get_code_using=lambda module: {user: None} if "chat" in module else {})

    monkeypatch.setitem(CONF, "workpath", str(tmp_path))
    hook = runpy.run_path(ROOT / "visionward" / "__pyinstaller" / "hook-llama_cpp.py")
    names = []
    Api.add_binaries = staticmethod(lambda binaries: names.extend(Path(source).name for source, _ in binaries))
    hook["hook"](Api)
    assert any("mtmd" in name for name in names) == kept
    assert any("libllama" in name for name in names)


def test_without_the_demonstration_guard(tmp_path):
    place = freeze(tmp_path, VISIONWARD_NO_DEMO="1")
    assert not [*place.rglob("demo_guard*")]
    answer = run_frozen(place, tmp_path)
    assert "does not contain the checkpoint of the demonstration guard" in answer["error"]
