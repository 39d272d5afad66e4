"""Commands as text that works when it is pasted into a shell: quoted, and with the program that is running now."""

import shlex
import shutil
import subprocess
import sys
from os import PathLike, fspath
from pathlib import Path

_COMMAND = "visionward"
_MODULE = "visionward.cli.main"


def command_text(*arguments: str | PathLike[str]) -> str:
    """A command with its arguments, quoted for the shell of this system where that is needed."""
    texts = [fspath(argument) for argument in arguments]
    return subprocess.list2cmdline(texts) if sys.platform == "win32" else shlex.join(texts)


def visionward_command(*arguments: str | PathLike[str]) -> str:
    """A visionward command, begun as this process was: ``.venv/bin/visionward`` if that is how it was started.

    Args:
        arguments: what follows the program, a command such as ``classify`` first.
    """
    return command_text(*_visionward(), *arguments)


def pip_command(*arguments: str) -> str:
    """A pip command for the Python environment that is running: plain ``pip`` if the shell finds that one."""
    found = shutil.which("pip")
    own = found is not None and Path(found).parent == Path(sys.executable).parent
    return command_text(*(["pip"] if own else [sys.executable, "-m", "pip"]), *arguments)


def _visionward() -> list[str]:
    started = sys.argv[0] if sys.argv else ""
    if Path(started).parts[-2:] == ("cli", "main.py"):
        return [sys.executable, "-m", _MODULE]
    if Path(started).stem != _COMMAND:
        return [_COMMAND]  # inside another program
    found = shutil.which(_COMMAND)
    return [_COMMAND if found is not None and _same_file(found, started) else started]


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
