"""The README's own code and commands."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from visionward.cli.main import cli
from visionward.convert.demo_guard import demo_pair

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, after: str) -> str:
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photo.jpg"
    Image.effect_mandelbrot((300, 200), (-3, -2.5, 2, 2.5), 50).convert("RGB").save(path)
    return path


def test_the_python_example_runs(photo: Path) -> None:
    pair = demo_pair()
    code = block("python", "## From Python")
    for name, path in (("models/guard-text-Q8_0.gguf", pair.text), ("models/mmproj-guard-Q8_0.gguf", pair.mmproj)):
        assert name in code
        code = code.replace(name, path.as_posix())
    assert photo.exists()
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the README's own code


def test_the_first_command_runs(photo: Path) -> None:
    command = block("sh", "Now classify a photo of yours").strip()
    program, *arguments = shlex.split(command)
    assert program == "visionward"
    assert photo.name in arguments
    assert CliRunner().invoke(cli, arguments).exit_code == 0


def test_the_gate_runs_the_readme_test_command() -> None:
    (command,) = block("sh", "<!-- tests -->").strip().splitlines()
    assert command.startswith("python3 -m venv ")
    assert command.endswith(".venv/bin/python -m pytest")
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- tests -->" in gate


def test_every_document_that_is_named_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    assert all((ROOT / link).exists() for link in links)
