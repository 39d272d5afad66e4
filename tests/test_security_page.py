"""Every promise of docs/security.md names tests that there are."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(set(re.findall(r"`(pytest [^`]+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))))


def test_the_files_are_there() -> None:
    named = {word for command in COMMANDS for word in shlex.split(command) if word.startswith("tests/")}
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_selects_tests(command: str) -> None:
    arguments = [sys.executable, "-m", *shlex.split(command), "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    # pytest's exit code 5: nothing was selected.
    assert found.returncode == 0, found.stdout
