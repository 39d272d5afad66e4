"""The Dockerfile keeps to the project, and the image to what it needs. `pytest -m package` runs its commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_compiles_the_version_of_the_project():
    pin = re.compile(r"llama-cpp-python==[\d.]+")
    assert set(pin.findall(DOCKERFILE)) == set(pin.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8")))


def test_the_image_has_an_unprivileged_user():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    (user,) = re.findall(r"^USER (\d+)$", last, re.MULTILINE)
    assert f"useradd --uid {user} " in last
    assert last.index("\nUSER ") < last.index("\nENTRYPOINT ")


def test_only_what_is_installed_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == [
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "visionward",
    ]
