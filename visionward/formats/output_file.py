"""Write a file under a temporary name and rename it when it is complete, so that no partial file has the final name.

An input, or a file of another format, is never replaced (docs/cli.md, ``--force``).
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

from visionward.errors import OutputError, VisionwardError
from visionward.formats.file_lock import try_lock
from visionward.formats.gguf_header import MAGIC
from visionward.quantities import size_text

# Windows' ERROR_SHARING_VIOLATION.
_SHARING_VIOLATION = 32


def describe(error: OSError, path: Path) -> OutputError:
    """An error for a failed system call, in one sentence that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full; free some space, or choose another folder")
    # As errno it is EACCES, but the permission is not the reason.
    if getattr(error, "winerror", None) == _SHARING_VIOLATION:
        return OutputError(f"{path}: another program has this file open; close it there, or choose another name")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: no permission to write here; choose another folder")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")


@dataclass(frozen=True)
class FileKind:
    """A file format, for outputs that may replace files of the same format.

    Attributes:
        name: the format in words, without an article.
        recognizes: whether a file has this format; it may be damaged.
    """

    name: str
    recognizes: Callable[[Path], bool]


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


GGUF = FileKind("GGUF file", _begins_as_gguf)


@dataclass(frozen=True)
class Outputs:
    """Files that will be written, and what they may replace.

    Attributes:
        paths: their final names.
        kind: their format.
        inputs: files that must not be replaced, because they are read. Folders and missing files are ignored.
        overwrite: whether files of the same format may be replaced.
    """

    paths: tuple[Path, ...]
    kind: FileKind
    inputs: tuple[Path, ...] = ()
    overwrite: bool = False

    def check(self) -> None:
        """Check before the work begins. ``part_files`` checks again.

        Raises:
            OutputError: if a file exists that must not be replaced.
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
            what = "a folder" if path.is_dir() else "not a regular file"
            raise OutputError(f"{path} is {what} and is never replaced: choose another name")
        for source in self.inputs:
            # Names may differ: links, and file systems that ignore case.
            if source.is_file() and path.samefile(source):
                same = "" if path == source else f" (which is the same file as {path})"
                raise OutputError(
                    f"{source}{same} is an input and would be replaced: choose another name for the output"
                )
        if path.stat().st_size and not self.kind.recognizes(path):
            raise OutputError(
                f"{path} exists, but is another kind of file (expected: {self.kind.name}): choose another name"
            )
        if not self.overwrite:
            raise OutputError(
                f"{path} exists: choose another name, or replace it with --force (in Python: overwrite=True)"
            )


def _try_lock(file: BinaryIO) -> bool:
    """Lock a file unless another process has. On Windows an open file cannot be removed anyway."""
    return sys.platform == "win32" or try_lock(file)


def remove_stale(final: Path) -> None:
    """Remove temporary files of killed runs. Those that another process is writing stay."""
    for path in final.parent.iterdir():
        if not (path.name.startswith(f".{final.name}.") and path.name.endswith(".part")):
            continue
        with contextlib.suppress(OSError):
            with path.open("rb+") as file:
                abandoned = _try_lock(file)
            if abandoned:
                path.unlink()


def prepare_folder(folder: Path, needed: int, files: Iterable[Path] = ()) -> None:
    """Create the output folder, and check the free disk space.

    Args:
        folder: the folder that files will be written to.
        needed: bytes of all files.
        files: their final names. Temporary files that killed runs left of them, which may fill the disk, are removed
            first.

    Raises:
        OutputError: if the folder cannot be created, or the disk has too little space.
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
            f"{folder}: the files need {size_text(needed)} and the disk has {size_text(free)} free: free some space, "
            "or choose another folder"
        )


class PartFile:
    """A file that is being written, under a temporary name beside its final name.

    Attributes:
        final: the final path.
        path: the temporary path.
        file: the open file.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
        remove_stale(final)
        self.file: BinaryIO = self.path.open("x+b")
        _try_lock(self.file)

    def close(self) -> None:
        """Flush the file to the disk and close it, still under the temporary name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def commit(self) -> None:
        """Rename the closed file to its final name, replacing an existing file."""
        self.path.replace(self.final)

    def discard(self) -> None:
        """Remove the file unless it was committed."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def part_files(outputs: Outputs) -> Iterator[tuple[PartFile, ...]]:
    """Files that are all renamed to their final names if the block succeeds, and all removed if it fails.

    Raises:
        OutputError: if a file must not be replaced, before or after the block; and for every OSError in the block.
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
    """A temporary file beside another file. It is removed at the end of the block, even if the block fails.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        part = PartFile(beside)
    except OSError as error:
        raise describe(error, beside.parent) from error
    try:
        yield part
    finally:
        part.discard()
