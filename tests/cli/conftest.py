"""The command line, in this process or as a program."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from cli_program import COMMAND
from click.testing import CliRunner, Result
from fake_guard import FakeGuard
from PIL import Image

from visionward.cli.main import cli
from visionward.runtime.guard import guard as guard_module

Run = Callable[..., Result]
Program = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path_factory, monkeypatch):
    """No model from the environment or by default, and a cache of the test's own."""
    for variable in ("VISIONWARD_MODEL", "VISIONWARD_MMPROJ", "VISIONWARD_ONNX_TOWER", "VISIONWARD_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture
def run() -> Run:
    """``run("classify", ...)`` in this process."""

    def invoke(*arguments: object, **options: object) -> click.testing.Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], **options)

    return invoke


@pytest.fixture
def program() -> Program:
    """The installed program in a process of its own."""

    def start(*arguments: object, **options: object) -> subprocess.CompletedProcess:
        command = [*COMMAND, *(str(argument) for argument in arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)

    return start


@pytest.fixture
def guard(monkeypatch) -> FakeGuard:
    """In place of the real one."""
    fake = FakeGuard()
    monkeypatch.setattr(guard_module, "Guard", fake)
    return fake


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """A picture of one tile."""
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.effect_mandelbrot((40, 40), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(path)
    return path


@pytest.fixture
def model(tiny_pair) -> list[str]:
    """Options for a real pair: it is tiny, and its answers mean nothing."""
    return ["--model", str(tiny_pair.text), "--mmproj", str(tiny_pair.mmproj)]
