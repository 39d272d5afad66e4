"""Open files that a user names. Only regular files are opened: others could block, or have no end."""

import errno
import os
import stat
from typing import BinaryIO

# O_NONBLOCK: opening does not block if a FIFO takes the name between the check and the opening. Windows has neither
# this flag nor O_CLOEXEC, and translates line ends without O_BINARY.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Symbolic links are followed.

    Raises:
        OSError: if it cannot be opened, or is a directory, FIFO, socket or device. These are not opened, because that
            could block or have an effect.
        ValueError: if the name has a NUL character.
    """
    _check(os.stat(path), path)  # noqa: PTH116 - a string needs no Path
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
