"""Which large files were read in full and found sound: remembered in the user's cache, so that they are read once.

A file is known by device, inode, size, times and a checksum that stands in it. Whoever changes its bytes changes one of
these, unless the storage itself does; ``visionward verify`` reads a file whatever is remembered.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_dir

from visionward.errors import ModelFileError

_MAX_REMEMBERED = 512


def marker_of(path: Path, digest: str) -> Path:
    """The empty file by which a sound file is remembered, as it is now.

    Args:
        path: the file.
        digest: one that stands in it, and covers the checksums that it was compared with.

    Raises:
        ModelFileError: if there is no such file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    identity = " ".join([*map(str, numbers), digest])
    return Path(user_cache_dir("visionward")) / "checked" / hashlib.sha256(identity.encode()).hexdigest()


def is_remembered(marker: Path) -> bool:
    """Whether a file was found sound before."""
    try:
        os.utime(marker)  # the markers that were asked for least recently are removed first
    except OSError:
        return False
    return True


def remember(marker: Path) -> None:
    """Remember that a file is sound. Without a cache that can be written, files are read each time."""
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        markers = [(path.stat().st_mtime, path) for path in marker.parent.iterdir()]
        for _, path in sorted(markers)[:-_MAX_REMEMBERED]:
            path.unlink()
