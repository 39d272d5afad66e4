"""Locking an open file against other processes that lock it too."""

import os
import sys
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    # Windows locks bytes, and nobody else can read or write them. This one is behind the end of the logs that are
    # locked, and within the range of offsets of 32 bits.
    _BYTE = 2**31 - 2

    def _lock(descriptor: int) -> None:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_lock(file: IO[Any]) -> bool:
    """Lock a file until it is closed, or return False if another process has locked it.

    On Windows the file must be smaller than 2 GiB.
    """
    try:
        _lock(file.fileno())
    except OSError:
        return False
    return True
