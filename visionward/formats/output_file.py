"""Write a file under a temporary name and give it its own at the end, so that no half file ever has it.

What is replaced then is never an input, and never a file of another kind (docs/cli.md, ``--force``).
"""

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from visionward.errors import VisionwardError
from visionward.formats.gguf_header import MAGIC

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


@dataclass(frozen=True)
class FileKind:
    """What a file is, for those that may be replaced.

    Attributes:
        name: in words, behind "no".
        recognizes: whether a file is of this kind; it may be damaged.
    """

    name: str
    recognizes: Callable[[Path], bool]


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


GGUF = FileKind("GGUF file", _begins_as_gguf)


@dataclass(frozen=True)
class Outputs:
    """Files that are going to be written, and what they may replace.

    Attributes:
        paths: their final names.
        kind: what they are.
        inputs: files that are read meanwhile, of whatever kind; folders and missing ones do not matter.
        overwrite: whether files of the same kind may be replaced.
    """

    paths: tuple[Path, ...]
    kind: FileKind
    inputs: tuple[Path, ...] = ()
    overwrite: bool = False

    def check(self) -> None:
        """For commands, before the work begins; ``part_files`` checks again.

        Raises:
            OutputError: if a file is there that must not be replaced.
        """
        for path in self.paths:
            try:
                self._check(path)
            except OSError as error:
                if isinstance(error, OutputError):
                    raise
                raise describe(error, path) from error

    def _check(self, path: Path) -> None:
        if not os.path.lexists(path):
            return
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise OutputError(f"{path} is {what}, which is never replaced: choose another name")
        for source in self.inputs:
            # Whatever the names: links, and systems that take a and A for the same.
            if source.is_file() and path.samefile(source):
                same = "" if path == source else f" (which is the same file as {path})"
                raise OutputError(f"{source}{same} is read and would be replaced: choose another name for the output")
        if path.stat().st_size and not self.kind.recognizes(path):
            raise OutputError(f"{path} exists and is no {self.kind.name}, so it is never replaced: choose another name")
        if not self.overwrite:
            raise OutputError(f"{path} exists: choose another name, or have it replaced (--force, overwrite=True)")


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
def part_files(outputs: Outputs) -> Iterator[tuple[PartFile, ...]]:
    """Files that all get their final names if the block succeeds, and are all removed if it does not.

    Raises:
        OutputError: if something is there that must not be replaced, before the block or after it; and for every
            OSError in the block.
    """
    outputs.check()
    parts: list[PartFile] = []
    try:
        try:
            for final in outputs.paths:
                parts.append(PartFile(final))
            yield tuple(parts)
            for part in parts:
                part.close()
            outputs.check()
            for part in parts:
                part.commit()
        except VisionwardError:
            raise
        except OSError as error:
            raise describe(error, outputs.paths[0].parent) from error
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
