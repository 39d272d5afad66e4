"""Remembers in the user's cache which large files matched their checksums, so that they are read only once.

A file is identified by device, inode, size, times and a checksum that it contains. Changing its bytes changes one of
these, unless the storage itself is at fault. ``visionward verify`` always reads the files.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from visionward.errors import ModelFileError
from visionward.paths import cache_folder

# The folder of the markers in the cache.
CHECKED_FOLDER = "checked"
_MAX_REMEMBERED = 512


def marker_of(path: Path, digest: str) -> Path:
    """The path of the empty marker file that stands for a file in its present state.

    Args:
        path: the file.
        digest: a checksum in it that covers the checksums of its content.

    Raises:
        ModelFileError: if the file cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    identity = " ".join([*map(str, numbers), digest])
    return cache_folder() / CHECKED_FOLDER / hashlib.sha256(identity.encode()).hexdigest()


def is_remembered(marker: Path) -> bool:
    """Whether the file matched its checksums before."""
    try:
        os.utime(marker)  # the least recently used markers are removed first
    except OSError:
        return False
    return True


def remember(marker: Path) -> None:
    """Remember that a file matches its checksums. Without a writable cache, files are read every time."""
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        markers = [(path.stat().st_mtime, path) for path in marker.parent.iterdir()]
        for _, path in sorted(markers)[:-_MAX_REMEMBERED]:
            path.unlink()
