"""Whatever happens on the way, a file under its final name is complete."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from visionward.convert import OutputError, convert_checkpoint
from visionward.formats.output_file import PartFile, remove_stale

SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from visionward.convert import convert_checkpoint
def slow(progress):
    if progress.stage == sys.argv[3] and progress.done > progress.total // 2:
        print("reached", flush=True)
        time.sleep(600)
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=slow)
"""


def start_and_reach(checkpoint: Path, out: Path, tensor: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW_CONVERSION, str(checkpoint), str(out), tensor]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"reached"
    return process


@pytest.mark.parametrize("tensor", ["text file", "mmproj file"])
def test_killed_conversion(tiny_checkpoint_dir, tmp_path, tensor):
    process = start_and_reach(tiny_checkpoint_dir, tmp_path, tensor)
    names = [path.name for path in tmp_path.iterdir()]
    assert names
    assert all(name.startswith(".") and name.endswith(".part") for name in names)
    # A second conversion beside the first leaves its temporaries alone.
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names, pair.text.name, pair.mmproj.name}
    expected = pair.text.read_bytes(), pair.mmproj.read_bytes()
    pair.text.unlink()
    pair.mmproj.unlink()

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == names
    again = convert_checkpoint(tiny_checkpoint_dir, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {again.text.name, again.mmproj.name}
    assert (again.text.read_bytes(), again.mmproj.read_bytes()) == expected


def test_failure_on_the_way_keeps_the_old_pair(tiny_checkpoint_dir, tmp_path):
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(progress):
        if progress.stage == "mmproj file" and progress.done:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full"):
        convert_checkpoint(tiny_checkpoint_dir, tmp_path, overwrite=True, on_progress=full)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tiny_checkpoint_dir, tmp_path, overwrite=True, on_progress=interrupted)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert pair.text in before


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EACCES, "no permission to write here"), (errno.EROFS, "no permission"), (errno.EIO, "cannot be written")],
)
def test_folder_that_cannot_be_written(tiny_checkpoint_dir, tmp_path, monkeypatch, code, message):
    def refuse(*_args, **_kwargs):
        raise OSError(code, "refused")

    monkeypatch.setattr(PartFile, "__init__", refuse)
    with pytest.raises(OutputError, match=message):
        convert_checkpoint(tiny_checkpoint_dir, tmp_path)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_what_a_killed_run_left_is_removed_before_room_is_looked_for(tiny_checkpoint_dir, tmp_path, monkeypatch, kind):
    names = [f"x-text-{kind.upper()}.gguf", f"mmproj-x-{kind.upper()}.gguf"]
    for name in names + ["x-text-F32.gguf"] * (kind == "q4_0"):
        (tmp_path / f".{name}.0badcafe.part").write_bytes(b"x")

    def usage(folder):
        return shutil._ntuple_diskusage(2**40, 0, 0 if list(folder.glob("*.0badcafe.part")) else 2**40)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path, text_type=kind, mmproj_type=kind, name="x")
    assert sorted(tmp_path.iterdir()) == sorted([pair.text, pair.mmproj])


def test_only_abandoned_temporaries_of_the_same_file_are_removed(tmp_path):
    final = tmp_path / "a-text-F16.gguf"
    abandoned = tmp_path / ".a-text-F16.gguf.0badcafe.part"
    others = [tmp_path / ".b-text-F16.gguf.0badcafe.part", tmp_path / "a-text-F16.gguf.part", tmp_path / "notes"]
    for path in (abandoned, *others):
        path.write_bytes(b"x")
    mine = PartFile(final)
    assert not abandoned.exists()
    remove_stale(final)
    assert {*others} <= set(tmp_path.iterdir())
    mine.file.write(b"whole")
    mine.close()
    mine.commit()
    mine.discard()
    assert final.read_bytes() == b"whole"
