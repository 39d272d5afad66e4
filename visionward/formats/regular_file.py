"""Opening files that somebody names: regular ones only, so that nothing hangs and no reading goes on without end."""

import errno
import os
import stat
from typing import BinaryIO

# O_NONBLOCK: a name that turns into a FIFO after it was looked at does not hang. Windows has neither this nor
# O_CLOEXEC, and would translate line ends without O_BINARY.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; symbolic links to one are followed.

    Raises:
        OSError: it cannot be opened, or is a directory, FIFO, socket or device. Opening those could wait for ever,
            or do something, so they are looked at before and not opened.
        ValueError: the name holds a NUL character.
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
