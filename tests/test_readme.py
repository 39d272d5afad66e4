"""The README's own code and commands."""

import os
import re
import shlex
import shutil
import subprocess
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


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_workflow_runs_both_commands() -> None:
    workflow = (ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    for name in ("main job", "tests"):
        assert re.search(rf"\.ci/readme-command '?{name}'?\)", workflow)
        (expected,) = block("sh", f"<!-- {name} -->").strip().splitlines()
        on_windows = expected.replace(".venv/bin", ".venv/Scripts").replace("python3 ", "python ")
        for system, command in (("Linux", expected), ("Windows_NT", on_windows)):
            script = ["bash", str(ROOT / ".ci" / "readme-command"), name]
            done = subprocess.run(script, env={**os.environ, "OS": system}, capture_output=True, text=True, check=True)
            assert done.stdout == f"{command}\n"


def test_every_document_that_is_named_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    assert all((ROOT / link).exists() for link in links)
