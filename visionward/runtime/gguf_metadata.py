"""Opening a GGUF file and reading its keys, with every way in which a file can be wrong turned into one sentence."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gguf

from visionward.runtime.errors import ModelFileError

T = TypeVar("T")
MAGIC = b"GGUF"


class GgufFile:
    """A memory-mapped GGUF file whose header has been checked against the file's length.

    Raises:
        ModelFileError: if the file is missing, empty, no GGUF, damaged, or shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
        if magic != MAGIC:
            raise ModelFileError(f"{path} is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}.")
        try:
            self.reader = gguf.GGUFReader(path)
        except (
            ValueError,
            IndexError,
            KeyError,
            TypeError,
            OverflowError,
            MemoryError,
            OSError,
            struct.error,
        ) as error:
            raise ModelFileError(f"{path} is damaged or truncated: {error}. Convert or copy it again.") from error
        self._check_extent()

    def _check_extent(self) -> None:
        size = self.path.stat().st_size
        for tensor in self.reader.tensors:
            end = int(tensor.data_offset) + int(tensor.n_bytes)
            if end > size:
                raise ModelFileError(
                    f"{self.path} is truncated: tensor {tensor.name} ends at byte {end} of {size}. "
                    "Convert or copy it again."
                )

    def has(self, key: str) -> bool:
        """Whether the file has a key."""
        return key in self.reader.fields

    def get(self, key: str, kind: Callable[[Any], T]) -> T:
        """The value of a key, passed through ``kind``.

        Raises:
            ModelFileError: if the key is missing or its value is of another kind.
        """
        field = self.reader.fields.get(key)
        if field is None:
            raise ModelFileError(f"{self.path} has no key {key}: it was not written by `visionward convert`.")
        try:
            return kind(field.contents())
        except (TypeError, ValueError, IndexError) as error:
            raise ModelFileError(f"{self.path}: the value of {key} is not of the expected kind ({error}).") from error


def integers(value: Any) -> tuple[int, ...]:
    """An array of integers from a file's value."""
    return tuple(int(item) for item in value)


def floats(value: Any) -> tuple[float, ...]:
    """An array of floats from a file's value."""
    return tuple(float(item) for item in value)
