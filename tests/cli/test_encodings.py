"""Paths with blanks and letters beyond ASCII, whatever encoding the system says that it has."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).parents[2] / "visionward/demo_guard/samples/picture_2_1_tiles.jpg"
ENVIRONMENTS = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ASCII streams": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    # Windows' own encoding of files and streams.
    "cp1252": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "Ordner ä 図"
    made.mkdir()
    return made


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_demonstration(program, folder, environment):
    shutil.copy(SAMPLE, folder / "Möndchen 月.jpg")
    variables = {**os.environ, **ENVIRONMENTS[environment], "VISIONWARD_HOME": str(folder / "home")}
    options = {"cwd": folder, "env": variables, "encoding": "cp1252" if environment == "cp1252" else "utf-8"}
    arguments = ("classify", "--demo", "--json", "Möndchen 月.jpg", "How do I draw the moon?")
    result = program(*arguments, **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["verdict"] == "safe"
    listed = program("cache", "--json", **options)
    assert json.loads(listed.stdout)["files"][0]["nbytes"] > 1e7
    # A text that is no text in this encoding is not judged.
    result = program("classify", "--demo", "Möndchen 月.jpg", "Wie zeichnet man den Mönd?", **options)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    result = program("classify", "--demo", "--image", "größe 月.jpg", **options)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_files_are_read_and_written_as_utf_8(program, folder, tiny_pair):
    """A warning is given where the encoding of the system would be used."""
    for path in (tiny_pair.text, tiny_pair.mmproj):
        shutil.copy(path, folder)
    variables = {
        **os.environ,
        **ENVIRONMENTS["C"],
        "VISIONWARD_HOME": str(folder / "home"),
        "PYTHONWARNDEFAULTENCODING": "1",
        "VISIONWARD_DEBUG": "1",
    }
    result = program("use", folder, env=variables)
    assert (result.returncode, result.stderr) == (0, "")
    chosen = json.loads((folder / "home" / "config" / "default_model.json").read_text(encoding="utf-8"))
    # Python's escapes for bytes that are no text stand for the same file everywhere.
    assert os.fsencode(chosen["text"]) == os.fsencode(folder / tiny_pair.text.name)
    variables |= {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    assert program("inspect", env=variables).returncode == 0
