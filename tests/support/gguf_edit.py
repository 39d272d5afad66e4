"""Take a GGUF file apart, change it, and put it together again: with new checksums, or with none as in version 1.

Written from the format's description alone, so that it knows nothing of the reader that is tested with it.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
HEADER_CHECKSUM, TENSOR_CHECKSUMS, VERSION = (
    b"visionward.header_sha256",
    b"visionward.tensor_sha256",
    b"visionward.format_version",
)


def text_bytes(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@dataclass
class Key:
    name: bytes
    kind: int
    value: bytes

    @property
    def decoded(self) -> Any:
        """A number or a text; arrays stay bytes."""
        if self.kind in SCALARS:
            return struct.unpack(SCALARS[self.kind], self.value)[0]
        return self.value[8:].decode() if self.kind == STRING else self.value


@dataclass
class Tensor:
    name: bytes
    shape: list[int]  # rows first
    kind: int
    data: bytes
    offset: int | None = None  # of the data region; where it belongs unless given


class GgufFile:
    def __init__(self, path: Path) -> None:
        self._data, self._at = path.read_bytes(), 4
        self.version, tensors, keys = self._take("<I"), self._take("<Q"), self._take("<Q")
        self.keys = [self._key() for _ in range(keys)]
        infos = [self._info() for _ in range(tensors)]
        start = -(-self._at // 32) * 32
        self.tensors = []
        for name, shape, kind, offset in infos:
            block, nbytes = GGML_QUANT_SIZES[kind]
            begin = start + offset
            self.tensors.append(
                Tensor(name, shape, kind, self._data[begin : begin + math.prod(shape) // block * nbytes])
            )

    def _take(self, layout: str) -> Any:
        value = struct.unpack_from(layout, self._data, self._at)[0]
        self._at += struct.calcsize(layout)
        return value

    def _text(self) -> bytes:
        length = self._take("<Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _skip(self, kind: int) -> None:
        if kind == STRING:
            self._text()
        elif kind == ARRAY:
            inner, count = self._take("<I"), self._take("<Q")
            for _ in range(count):
                self._skip(inner)
        else:
            self._at += struct.calcsize(SCALARS[kind])

    def _key(self) -> Key:
        name, kind = self._text(), self._take("<I")
        before = self._at
        self._skip(kind)
        return Key(name, kind, self._data[before : self._at])

    def _info(self) -> tuple[bytes, list[int], int, int]:
        name, dimensions = self._text(), self._take("<I")
        shape = [self._take("<Q") for _ in range(dimensions)][::-1]
        return name, shape, self._take("<I"), self._take("<Q")

    def key(self, name: str) -> Key:
        return next(key for key in self.keys if key.name == name.encode())

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def set(self, name: str, value: float) -> None:
        key = self.key(name)
        key.value = struct.pack(SCALARS[key.kind], value)

    def without_checksums(self) -> "GgufFile":
        """As a file of version 1: without checksums."""
        self.keys = [key for key in self.keys if key.name not in (HEADER_CHECKSUM, TENSOR_CHECKSUMS)]
        for key in self.keys:
            if key.name == VERSION:
                key.value = struct.pack("<I", 1)
        return self

    def write(self, path: Path) -> Path:
        """Write it, with checksums of what is in it now if it has places for them."""
        path.write_bytes(self.serialized())
        return path

    def serialized(self, checksums: dict[bytes, bytes] | None = None) -> bytes:
        """All bytes of the file; the checksums are of what is in it now, unless they are given."""
        data, infos = bytearray(), bytearray()
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            infos += text_bytes(tensor.name) + struct.pack("<I", len(tensor.shape))
            infos += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1])
            infos += struct.pack("<IQ", tensor.kind & 0xFFFFFFFF, offset & (2**64 - 1))
            data += tensor.data + bytes(-len(tensor.data) % 32)
        places = {key.name: key for key in self.keys if key.name in (HEADER_CHECKSUM, TENSOR_CHECKSUMS)}
        if checksums is None and len(places) == 2:
            found = [text_bytes(hashlib.sha256(tensor.data).hexdigest().encode()) for tensor in self.tensors]
            self._store(places[TENSOR_CHECKSUMS], ARRAY, struct.pack("<IQ", STRING, len(found)) + b"".join(found))
            self._store(places[HEADER_CHECKSUM], STRING, text_bytes(b"0" * 64))
        elif checksums is not None:
            for name, key in places.items():
                key.value = checksums[name]
        keys = b"".join(text_bytes(key.name) + struct.pack("<I", key.kind) + key.value for key in self.keys)
        header = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys)) + keys + infos
        header += bytes(-len(header) % 32)
        if checksums is None and len(places) == 2:
            place = text_bytes(HEADER_CHECKSUM) + struct.pack("<I", STRING) + text_bytes(b"0" * 64)
            header = header.replace(place, place[:-64] + hashlib.sha256(header).hexdigest().encode(), 1)
        return header + bytes(data)

    @staticmethod
    def _store(key: Key, kind: int, value: bytes) -> None:
        key.kind, key.value = kind, value
