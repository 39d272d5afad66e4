"""Read and check the header of a GGUF file. Every defect is reported in one sentence.

gguf-py's reader makes several numpy views of every string, which takes most of a minute for a header with the 128k
tokens and 280k merges of Llama 3. This reader takes a fraction of a second, because it reads arrays of strings only
when they are requested. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import hashlib
import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from visionward.errors import ModelFileError
from visionward.formats.file_type import HEAD_BYTES, file_type
from visionward.formats.gguf_values import StringArray, strings, text
from visionward.formats.mmproj_format import CHECKSUM_PLACEHOLDER, KEY_HEADER_CHECKSUM
from visionward.formats.regular_file import open_regular

T = TypeVar("T")
MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_VERSIONS = (2, 3)
_PREAMBLE = struct.Struct("<4sIQQ")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file.

    Attributes:
        name: its name.
        shape: rows first, as in numpy.
        dtype: its element type.
        offset: offset of its data from the beginning of the file.
        nbytes: bytes of its data.
    """

    name: str
    shape: tuple[int, ...]
    dtype: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class _Cursor:
    """A position in the file that cannot be moved past the end."""

    def __init__(self, data: mmap.mmap | memoryview, at: int = 0) -> None:
        self._data = data
        self._size = len(data)
        self.at = at

    def take(self, count: int) -> int:
        """Move forward. Returns the position before."""
        before, self.at = self.at, self.at + count
        if self.at > self._size:
            raise EOFError
        return before

    def u32(self) -> int:
        return int(_U32.unpack_from(self._data, self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self._data, self.take(8))[0])

    def string(self) -> bytes:
        length = self.u64()
        before = self.take(length)
        return bytes(self._data[before : before + length])

    def value(self, value_type: int) -> Any:
        """One value: a number, text, an array of numbers, or the position of an array of strings."""
        if value_type == _STRING:
            return self.string().decode("utf-8", "replace")
        if value_type != _ARRAY:
            return self._numbers(value_type, 1)[0].item()
        element_type, count = self.u32(), self.u64()
        if element_type != _STRING:
            return self._numbers(element_type, count).tolist()
        array = StringArray(self.at, count)
        unpack, data, at, size = _U64.unpack_from, self._data, self.at, self._size
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
            if at > size:
                raise EOFError
        self.at = at
        return array

    def _numbers(self, value_type: int, count: int) -> npt.NDArray[Any]:
        dtype = np.dtype(_SCALARS[value_type])
        before = self.take(dtype.itemsize * count)
        return np.frombuffer(self._data, dtype, count, before)


class GgufHeader:
    """Keys and tensors of a GGUF file, checked against the file's length.

    Args:
        path: the file.
        architecture: the expected ``general.architecture``; None for any, or none.
        check_checksum: whether to check the header's own checksum, if it has one. False for a file that is still being
            written.

    Attributes:
        tensors: the tensors by name, in file order.
        nbytes: bytes of the header and the padding after it: the offset of the first tensor's data.

    Raises:
        ModelFileError: if the file is missing or damaged, is not a GGUF file, has another architecture, or does not
            have the size that follows from its header.
    """

    def __init__(self, path: Path, architecture: str | None = None, *, check_checksum: bool = True) -> None:
        self.path = path
        self._keys: dict[str, Any] = {}
        self._value_offsets: dict[str, int] = {}
        self.tensors: dict[str, GgufTensor] = {}
        self.nbytes = 0
        try:
            with open_regular(path) as file:
                # read() returns None for a file that would block, as some in /proc.
                head = file.read(HEAD_BYTES) or b""
                if not head.startswith(MAGIC):
                    raise ModelFileError(f"{path} is not a GGUF file{_but(file_type(head))}.")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    self._parse(data, architecture)
                    if check_checksum and self.has(KEY_HEADER_CHECKSUM):
                        self._check_checksum(data)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (EOFError, KeyError, ValueError, OverflowError, MemoryError, struct.error) as error:
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(
                f"{path} is damaged or truncated: its header cannot be read. Copy it again."
            ) from error

    def _parse(self, data: mmap.mmap, architecture: str | None) -> None:
        cursor = _Cursor(data)
        _, version, tensors, keys = _PREAMBLE.unpack_from(data, cursor.take(_PREAMBLE.size))
        if version not in _VERSIONS:
            raise ModelFileError(
                f"{self.path} has GGUF version {version}, expected {_VERSIONS[-1]}: convert the model again."
            )
        for _ in range(keys):
            key, value_type = cursor.string().decode("utf-8", "replace"), cursor.u32()
            if key in self._keys:
                raise ModelFileError(f"{self.path} is damaged: it has the key {key} twice. Copy it again.")
            self._value_offsets[key] = cursor.at
            self._keys[key] = cursor.value(value_type)
            if key == "general.architecture":
                self._check_architecture(architecture)
        self._check_architecture(architecture)
        infos = [self._tensor_info(cursor) for _ in range(tensors)]
        alignment = self.get("general.alignment", int) if self.has("general.alignment") else DEFAULT_ALIGNMENT
        if alignment <= 0 or alignment % DEFAULT_ALIGNMENT:
            raise EOFError
        self.nbytes = _aligned(cursor.at, alignment)
        self._place(infos, alignment, len(data))

    def _place(
        self, infos: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]], alignment: int, size: int
    ) -> None:
        """Locate the tensors' data. Tensors follow each other in the header's order, and nothing follows the last."""
        end = self.nbytes
        for name, shape, dtype, offset in infos:
            start = _aligned(end, alignment)
            if name in self.tensors:
                raise ModelFileError(f"{self.path} is damaged: it has the tensor {name} twice. Copy it again.")
            if self.nbytes + offset != start:
                raise ModelFileError(
                    f"{self.path} is damaged: tensor {name} begins at byte {self.nbytes + offset}, expected {start}. "
                    "Copy it again."
                )
            nbytes = math.prod(int(extent) for extent in gguf.quant_shape_to_byte_shape(shape, dtype))
            end = start + nbytes
            if end > size:
                raise ModelFileError(
                    f"{self.path} is damaged or truncated: tensor {name} ends at byte {end} of {size}. Copy it again."
                )
            self.tensors[name] = GgufTensor(name, shape, dtype, start, nbytes)
        end = _aligned(end, alignment)
        if size > end:
            raise ModelFileError(
                f"{self.path} is damaged: {size - end} of its {size} bytes follow the last tensor. Copy it again."
            )

    def _check_checksum(self, data: mmap.mmap) -> None:
        if self.get(KEY_HEADER_CHECKSUM, text) != self.checksum(data):
            raise ModelFileError(f"{self.path} is damaged: its header does not match its checksum. Copy it again.")

    def checksum(self, data: bytes | mmap.mmap) -> str:
        """SHA-256 of the header, in hexadecimal, with zeros in place of the checksum itself.

        Args:
            data: the bytes of the file, or of its header.

        Raises:
            ModelFileError: if the header has no checksum.
        """
        start = self.value_offset(KEY_HEADER_CHECKSUM) + _U64.size
        end = start + len(CHECKSUM_PLACEHOLDER)
        if len(self.get(KEY_HEADER_CHECKSUM, text)) != len(CHECKSUM_PLACEHOLDER):
            raise ModelFileError(f"{self.path} is damaged: {KEY_HEADER_CHECKSUM} is not a checksum. Copy it again.")
        digest = hashlib.sha256(data[:start])
        digest.update(CHECKSUM_PLACEHOLDER.encode())
        digest.update(data[end : self.nbytes])
        return digest.hexdigest()

    def value_offset(self, key: str) -> int:
        """Offset in the file of a key's value, after the value's type.

        Raises:
            ModelFileError: if the key is missing.
        """
        self.get(key, lambda value: value)
        return self._value_offsets[key]

    @staticmethod
    def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = cursor.string().decode("utf-8", "replace")
        dimensions = cursor.u32()
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise EOFError
        shape = tuple(reversed([cursor.u64() for _ in range(dimensions)]))
        if 0 in shape:
            raise EOFError
        return name, shape, GGMLQuantizationType(cursor.u32()), cursor.u64()

    def _check_architecture(self, wanted: str | None) -> None:
        if wanted is None:
            return
        found = self.get("general.architecture", str)
        if found != wanted:
            raise ModelFileError(
                f"{self.path} has architecture {found!r}, expected {wanted!r}: were the two files swapped?"
            )

    @property
    def data_nbytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of all keys, in file order."""
        return tuple(self._keys)

    def has(self, key: str) -> bool:
        """Whether the file has a key."""
        return key in self._keys

    def get(self, key: str, convert: Callable[[Any], T]) -> T:
        """The value of a key, passed through a converter of ``gguf_values``.

        Raises:
            ModelFileError: if the key is missing or the converter refuses its value.
        """
        if key not in self._keys:
            raise ModelFileError(f"{self.path} has no key {key}: it is not a file that `visionward convert` wrote.")
        try:
            return convert(self._keys[key])
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise ModelFileError(
                f"{self.path}: invalid value of {key} ({error}). Copy the file again, or convert the model again."
            ) from error

    def value(self, key: str) -> Any:
        """The value of a key of any type: a number, text, or a list of these.

        Raises:
            ModelFileError: if the key is missing.
        """
        value = self.get(key, lambda value: value)
        if isinstance(value, StringArray):
            return [text.decode("utf-8", "replace") for text in self.strings(key)]
        return value

    def strings(self, key: str) -> list[bytes]:
        """An array of strings.

        Raises:
            ModelFileError: if the key is missing or its value is not an array of strings.
        """
        array = self.get(key, strings)
        with open_regular(self.path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, array.offset)
            return [cursor.string() for _ in range(array.count)]


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _but(found: str | None) -> str:
    return "" if found is None else f" but {found}"
