"""Walking a GGUF header quickly to one array of strings.

gguf-py's reader makes several numpy views of every string, which takes seconds for a vocabulary of 128k; this takes a
tenth of one. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from visionward.runtime.errors import ModelFileError

_HEADER = struct.Struct("<4sIQQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
# Bytes of a value by its type: u8, i8, u16, i16, u32, i32, f32, bool, -, -, u64, i64, f64.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class _Walker:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise EOFError

    def number(self, form: struct.Struct) -> int:
        value: int = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return value

    def string(self) -> bytes:
        length = self.number(_U64)
        start = self._at
        self.skip(length)
        return self._data[start : self._at]

    def header(self) -> int:
        magic, _version, _tensors, keys = _HEADER.unpack_from(self._data, 0)
        if magic != b"GGUF":
            raise EOFError
        self._at = _HEADER.size
        return int(keys)

    def strings(self) -> Iterator[bytes]:
        """The array at this place, if it is one of strings."""
        if self.number(_U32) != _ARRAY or self.number(_U32) != _STRING:
            raise EOFError
        for _ in range(self.number(_U64)):
            yield self.string()

    def skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            inner, count = self.number(_U32), self.number(_U64)
            if inner == _STRING:
                for _ in range(count):
                    self.string()
            else:
                self.skip(_SIZES[inner] * count)
        else:
            self.skip(_SIZES[kind])


def read_strings(path: Path, key: str) -> list[bytes]:
    """The strings of one array of a GGUF file's header.

    Raises:
        ModelFileError: if the header is damaged, or has no such array.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            walker = _Walker(data)
            for _ in range(walker.header()):
                if walker.string() == key.encode():
                    return list(walker.strings())
                walker.skip_value(walker.number(_U32))
    except (EOFError, KeyError, ValueError, OverflowError, struct.error) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read. Convert or copy it again.") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    raise ModelFileError(f"{path} has no {key}: it was not written by `visionward convert`.")
