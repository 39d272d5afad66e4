"""Completion in shells: what is offered, and the scripts in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from visionward.cli.main import cli

SHELLS = ("bash", "zsh", "fish")


def completions(*words: str) -> list[tuple[str, str]]:
    *before, incomplete = words
    found = BashComplete(cli, {}, "visionward", "_VISIONWARD_COMPLETE").get_completions(list(before), incomplete)
    return [(item.type, item.value) for item in found]


def test_what_is_offered():
    assert completions("c") == [("plain", n) for n in ("classify", "convert", "cache", "completion", "compare")]
    assert ("plain", "--threshold") in completions("classify", "--th")
    assert completions("classify", "photo.jpg", "ph") == [("file", "ph")]
    assert completions("scan", "ph") == [("file", "ph")]
    assert completions("classify", "--image", "ph") == [("file", "ph")]
    assert completions("classify", "--kernels", "pl") == [("plain", "plain")]
    assert completions("cache", "c") == [("plain", "clear")]


def test_a_line_with_mistakes_has_no_completions_and_no_error():
    assert completions("unknown", "x") == []
    # A given option is not offered again.
    assert completions("classify", "--threshold", "x", "--threshold", "0.5", "--thr") == [("plain", "--threads")]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script(run, shell):
    result = run("completion", shell)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"_VISIONWARD_COMPLETE={shell}_complete" in result.stdout


def test_an_unknown_shell(run):
    result = run("completion", "tcsh")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.stderr


IN_SHELL = {
    "bash": """
source script
COMP_WORDS=(visionward cl) COMP_CWORD=1
_visionward_completion visionward
echo "${COMPREPLY[@]}"
complete -p visionward
""",
    # Zsh completes in a terminal.
    "zsh": r"""
zmodload zsh/zpty
zpty terminal zsh -f
zpty -w terminal 'unsetopt zle_bracketed_paste; PS1=; autoload -U compinit; compinit -u -D; source script'
zpty -w -n terminal $'visionward cl\t photo-of-a-moon\n'
while zpty -r terminal line; do
    print -r -- $line
    [[ $line == *got*classify* ]] && exit 0
done
""",
    "fish": "source script; complete -C 'visionward cl'",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_in_the_shell(run, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(run("completion", shell).stdout)
    program = tmp_path / "visionward"
    # Run by hand, it shows its arguments.
    start = f"{sys.executable} -c 'from visionward.cli.main import cli; cli(prog_name=\"visionward\")'"
    program.write_text(f'#!/bin/sh\n[ -n "$_VISIONWARD_COMPLETE" ] && exec {start} "$@"\necho "got $@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [shell, "-c", IN_SHELL[shell]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "bash": "classify\ncomplete -o nosort -F _visionward_completion visionward",
        "zsh": "got classify photo-of-a-moon",
        "fish": "classify\tSay whether an image and a conversation",
    }
    assert expected[shell] in done.stdout.replace("\r", "")
