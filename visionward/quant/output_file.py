"""Write a file under a temporary name and give it its own at the end, so that no half file ever has it."""

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from visionward.runtime.errors import VisionwardError

if sys.platform != "win32":
    import fcntl


class OutputError(VisionwardError, OSError):
    """A file cannot be written: no room, no permission, no such place."""


def describe(error: OSError, path: Path) -> OutputError:
    """The same failure in one sentence that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space, or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: no permission to write here; choose another folder")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


def _try_lock(file: BinaryIO) -> bool:
    """Whether nobody else holds the file. On Windows an open file cannot be removed, which serves the same end."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_stale(final: Path) -> None:
    """Remove what killed runs left of a file; temporaries that another process is writing stay."""
    for path in final.parent.iterdir():
        if not (path.name.startswith(f".{final.name}.") and path.name.endswith(".part")):
            continue
        with contextlib.suppress(OSError):
            with path.open("rb+") as file:
                abandoned = _try_lock(file)
            if abandoned:
                path.unlink()


def prepare_folder(folder: Path, needed: int, files: Iterable[Path] = ()) -> None:
    """Make the output folder and see whether it has room.

    Args:
        folder: where files will be written.
        needed: bytes in all.
        files: what killed runs left of them, which may be what fills the disk, is removed first.

    Raises:
        OutputError: if it cannot be made, or has less room than that.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            remove_stale(file)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise describe(error, folder) from error
    if free < needed:
        raise OutputError(
            f"{folder}: the files take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left; "
            "free some space, or choose another folder"
        )


class PartFile:
    """A file that is being written, under a temporary name next to its final one.

    Attributes:
        final: the path that it gets by ``commit``.
        path: the temporary one.
        file: what to write to, unless something else writes to ``path``.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
        remove_stale(final)
        self.file: BinaryIO = self.path.open("x+b")
        _try_lock(self.file)

    def close(self) -> None:
        """Finish writing: everything is on the disk afterwards, still under the temporary name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def commit(self) -> None:
        """Give the closed file its final name, replacing what had it."""
        self.path.replace(self.final)

    def discard(self) -> None:
        """Remove the file unless it was committed."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def part_files(*finals: Path) -> Iterator[tuple[PartFile, ...]]:
    """Files that all get their final names if the block succeeds, and are all removed if it does not.

    Raises:
        OutputError: for every OSError in the block.
    """
    parts: list[PartFile] = []
    try:
        try:
            for final in finals:
                parts.append(PartFile(final))
            yield tuple(parts)
            for part in parts:
                part.close()
            for part in parts:
                part.commit()
        except VisionwardError:
            raise
        except OSError as error:
            raise describe(error, finals[0].parent) from error
    finally:
        for part in parts:
            part.discard()


@contextlib.contextmanager
def scratch_file(beside: Path) -> Iterator[PartFile]:
    """A file next to another one that is removed at the end, whatever happens.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        part = PartFile(beside)
    except OSError as error:
        raise describe(error, beside.parent) from error
    try:
        yield part
    finally:
        part.discard()
