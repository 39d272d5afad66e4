"""Locks: between processes here, and with the functions of Windows, which are faked."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionward.errors import OutputError
from visionward.formats import file_lock
from visionward.formats.append_log import AppendLog
from visionward.formats.output_file import describe

HOLD = """
import sys
from visionward.formats.file_lock import try_lock
with open(sys.argv[1], "ab") as file:
    print(try_lock(file), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "Ordner mit ä"
    folder.mkdir()
    return folder / "log.jsonl"


def test_another_process(path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as other:
        assert other.stdout.readline() == b"True\n"
        with path.open("ab") as file:
            assert not file_lock.try_lock(file)
        other.communicate()
    with path.open("ab") as file:
        assert file_lock.try_lock(file)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> tuple[object, dict]:
    """The module as on Windows, and the bytes that are locked: position to descriptor."""
    locked: dict[int, int] = {}

    def locking(descriptor: int, mode: int, nbytes: int) -> None:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, nbytes) == (2, 1)
        if locked.setdefault(position, descriptor) != descriptor:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    spec = importlib.util.spec_from_file_location("file_lock_of_windows", file_lock.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module, locked


def test_windows(windows, path: Path) -> None:
    """A locked byte cannot be read or written by others, so it must not be one of the content."""
    module, locked = windows
    path.write_bytes(b"content")
    with path.open("r+b") as first, path.open("r+b") as second:
        first.seek(3)
        assert module.try_lock(first)
        assert first.read() == b"tent"
        assert not module.try_lock(second)
        assert second.read() == b"content"
    assert min(locked) > 2 * 10**9


def test_a_log_on_windows_has_one_writer(windows, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionward.formats.append_log.try_lock", windows[0].try_lock)
    one, other = AppendLog(path, lambda *_: None), AppendLog(path, lambda *_: None)
    one.append({"a": 1})
    with pytest.raises(ValueError, match="another process is writing to this file"):
        other.append({"a": 2})
    one.append({"a": 3})
    one.close()
    assert len(path.read_bytes().splitlines()) == 2


def test_a_file_that_another_program_has_open(path: Path) -> None:
    error = PermissionError(13, "The process cannot access the file")
    error.winerror = 32
    sentence = f"{path}: another program has this file open; close it there, or choose another name"
    assert (type(describe(error, path)), str(describe(error, path))) == (OutputError, sentence)
    error.winerror = 5
    assert "no permission to write here" in str(describe(error, path))
