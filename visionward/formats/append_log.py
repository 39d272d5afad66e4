"""A file of JSON objects, one per line, that survives kills and power cuts.

Each line has a checksum and is on disk when ``append`` returns. An incomplete last line is passed over, and removed by
the first ``append``. Other damaged lines are counted and passed over.
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from visionward.errors import DataError
from visionward.formats.file_lock import try_lock

_CHECKSUM = "crc32"


class AppendLog:
    """The file, which is created by the first ``append``.

    Args:
        path: the file.
        remember: gets the byte offset and the object of each whole line, without its checksum. A line for which it
            raises ValueError, TypeError or KeyError is damaged.

    Attributes:
        path: the file.
        damaged: lines that could not be read.

    Raises:
        OSError: if the file cannot be read.
    """

    def __init__(self, path: Path, remember: Callable[[int, dict[str, Any]], None]) -> None:
        self.path = path
        self.damaged = 0
        self._remember = remember
        self._file: IO[bytes] | None = None
        # Sizes of the file and of its whole lines.
        self._size = self._end = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        with self.path.open("rb") as file:
            for line in file:
                self._size += len(line)
                if not line.endswith(b"\n"):
                    break
                try:
                    self._remember(self._end, _checked(json.loads(line)))
                except (ValueError, TypeError, KeyError, RecursionError):
                    self.damaged += 1
                self._end = self._size

    def append(self, values: Mapping[str, Any]) -> None:
        """Write an object. It is on disk when this returns, or the file is as before.

        Raises:
            DataError: if another process writes to the file.
            OSError: if it cannot be written.
        """
        if self._file is None:
            self.open()
        line = json.dumps({**values, _CHECKSUM: _checksum(values)}, allow_nan=False).encode() + b"\n"
        try:
            self._write(line)
        except BaseException:
            # The next line must not continue a part of this one.
            os.truncate(self.path, self._end)
            raise
        offset, self._end = self._end, self._end + len(line)
        self._remember(offset, dict(values))

    def open(self) -> None:
        """Open the file for ``append``, which does it otherwise, and create it.

        Raises:
            DataError: if another process writes to the file.
            OSError: if it cannot be opened.
        """
        file = self.path.open("ab", buffering=0)
        try:
            self._claim(file)
            file.truncate(self._end)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _claim(self, file: IO[bytes]) -> None:
        if not try_lock(file) or os.fstat(file.fileno()).st_size != self._size:
            raise DataError(f"{self.path}: another process is writing to this file")

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise AssertionError("append() opens the file")
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def read(self, offset: int) -> dict[str, Any]:
        """The object at an offset that ``remember`` got.

        Raises:
            DataError: if the line was damaged meanwhile.
            OSError: if the file cannot be read.
        """
        with self.path.open("rb") as file:
            file.seek(offset)
            try:
                return _checked(json.loads(file.readline()))
            except ValueError as cause:
                raise DataError(f"{self.path}: the line at byte {offset} was damaged while it was in use") from cause

    def close(self) -> None:
        """Close the file. Calling it again has no effect."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.pop(_CHECKSUM, None) != _checksum(value):
        raise ValueError("damaged")
    return value


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, allow_nan=False).encode())
