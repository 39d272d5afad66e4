"""Commands that are shown: a shell takes them apart into the arguments that were meant."""

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.machine.shell import command_text, pip_command, visionward_command

posix = pytest.mark.skipif(sys.platform == "win32", reason="another shell")


@posix
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_quoted_arguments_come_apart_as_they_were(arguments):
    assert shlex.split(command_text("visionward", *arguments)) == ["visionward", *arguments]


@posix
def test_a_real_shell_agrees(tmp_path):
    folder = tmp_path / "it's a $HOME `folder`"
    shown = subprocess.run(
        ["/bin/sh", "-c", command_text("printf", "%s", folder)], capture_output=True, text=True, check=True
    )
    assert shown.stdout == str(folder)


@posix
@pytest.mark.parametrize(
    ("started", "shown"),
    [
        (".venv/bin/visionward", ".venv/bin/visionward classify"),
        ("/opt/my tools/visionward", "'/opt/my tools/visionward' classify"),
        ("/somewhere/visionward/cli/main.py", f"{shlex.quote(sys.executable)} -m visionward.cli.main classify"),
        ("/usr/bin/pytest", "visionward classify"),
        ("", "visionward classify"),
    ],
)
def test_the_program_is_named_as_it_was_started(monkeypatch, started, shown):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # an active environment has a visionward of its own there
    monkeypatch.setattr(sys, "argv", [started])
    assert visionward_command("classify") == shown


@posix
def test_a_program_on_the_path_is_named_alone(monkeypatch, tmp_path):
    program = tmp_path / "visionward"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert visionward_command("doctor") == "visionward doctor"


@posix
def test_pip_is_that_of_this_environment(monkeypatch, tmp_path):
    for folder in (tmp_path / "here", tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "pip").write_text("#!/bin/sh\n")
        (folder / "pip").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "here" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    assert pip_command("install", "x") == "pip install x"
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert pip_command("install", "x") == f"{tmp_path / 'here' / 'python'} -m pip install x"
