"""Which file systems are in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from visionward.machine import file_systems
from visionward.machine.file_systems import is_in_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports it")
@pytest.mark.parametrize("folder", ["/", "/dev/shm", "/proc", str(Path(__file__).parent)])  # noqa: S108 - a tmpfs
def test_as_coreutils_says(folder: str) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True).stdout.strip()
    assert is_in_memory(Path(folder)) == (kind in ("tmpfs", "ramfs"))


def test_other_systems(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(file_systems, "_MOUNTS", tmp_path / "missing")
    assert not is_in_memory(tmp_path)


def test_a_missing_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        is_in_memory(tmp_path / "missing")
