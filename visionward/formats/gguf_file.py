"""Write a GGUF file as a stream: the header, then each tensor in pieces, then the checksums into the header."""

import hashlib
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, GGUFWriter

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_format import CHECKSUM_PLACEHOLDER, KEY_HEADER_CHECKSUM, KEY_TENSOR_CHECKSUMS
from visionward.formats.tensor_checksums import computed_checksums, stored_checksums
from visionward.progress import OnProgress, ProgressCounter

MetadataValue = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
Metadata = Mapping[str, MetadataValue]


class TensorLayout(Protocol):
    """A tensor as the header describes it."""

    @property
    def name(self) -> str:
        """Its GGUF name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def element_type(self) -> GGMLQuantizationType:
        """The type that its elements are encoded in."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""


Tensor = TypeVar("Tensor", bound=TensorLayout)


def _add(writer: GGUFWriter, key: str, value: MetadataValue) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))


def header_bytes(architecture: str | None, metadata: Metadata, tensors: Sequence[TensorLayout]) -> bytes:
    """Everything before the tensor data, padding included.

    Args:
        architecture: ``general.architecture``; None for files without it.
        metadata: the other keys. Integers are written as u32, those in arrays as i32.
        tensors: in file order.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer = GGUFWriter(path, architecture or "")
        if architecture is None:
            # gguf-py always adds the key.
            writer.kv_data[0].pop("general.architecture", None)
        for key, value in metadata.items():
            _add(writer, key, value)
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.element_type
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    return header + bytes(-len(header) % GGUF_DEFAULT_ALIGNMENT)


def string_entry(key: str, value: str) -> bytes:
    """A key of type string and its value, encoded as in the header."""
    name, content = key.encode(), value.encode()
    lengths = struct.pack("<Q", len(name)), struct.pack("<IQ", GGUFValueType.STRING, len(content))
    return lengths[0] + name + lengths[1] + content


def padded_size(tensors: Sequence[TensorLayout]) -> int:
    """Bytes of all tensor data, padding included."""
    return sum(tensor.nbytes + -tensor.nbytes % GGUF_DEFAULT_ALIGNMENT for tensor in tensors)


def write_tensor_data(
    file: BinaryIO,
    tensors: Sequence[Tensor],
    chunks: Callable[[Tensor], Iterator[npt.NDArray[Any]]],
    *,
    advance: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Write all tensors' data, each padded to the alignment.

    Args:
        file: positioned after the header.
        tensors: in the header's order.
        chunks: yields a tensor's encoded data piece by piece.
        advance: called with the number of bytes of every piece that was written.

    Returns:
        The SHA-256 of each tensor's bytes, in hexadecimal, by name.
    """
    checksums = {}
    with ThreadPoolExecutor(1) as hasher:
        for tensor in tensors:
            digest, written = hashlib.sha256(), 0
            hashed: Future[None] | None = None
            for chunk in chunks(tensor):
                data = np.ascontiguousarray(chunk).data.cast("B")
                if hashed is not None:
                    hashed.result()
                hashed = hasher.submit(digest.update, data)
                file.write(data)
                written += data.nbytes
                if advance is not None:
                    advance(data.nbytes)
            if written != tensor.nbytes:
                raise AssertionError(f"{tensor.name}: wrote {written} bytes, the header says {tensor.nbytes}")
            file.write(bytes(-written % GGUF_DEFAULT_ALIGNMENT))
            if hashed is not None:
                hashed.result()
            checksums[tensor.name] = digest.hexdigest()
    return checksums


def checksum_placeholders(tensors: int) -> dict[str, MetadataValue]:
    """The checksum keys of a file that is being written, with placeholders of the same length as the checksums."""
    return {KEY_HEADER_CHECKSUM: CHECKSUM_PLACEHOLDER, KEY_TENSOR_CHECKSUMS: [CHECKSUM_PLACEHOLDER] * tensors}


def write_checksums(
    path: Path, checksums: Mapping[str, str] | None = None, *, on_progress: OnProgress | None = None
) -> None:
    """Write the checksums of a complete file's tensors, and that of its header, into the header.

    Args:
        path: a file whose header has the checksum keys (``checksum_placeholders``), with any checksums as values.
        checksums: of all its tensors, by name; computed from the file if not given.
        on_progress: called with the progress of computing them, in bytes.

    Raises:
        ModelFileError: if the header has no checksum keys.
    """
    header = GgufHeader(path, check_checksum=False)
    if checksums is None:
        counter = ProgressCounter(on_progress, "checksums", header.data_nbytes, "bytes")
        checksums = computed_checksums(header, counter.advance)
    # After the value's type: the type of the elements (u32), their number (u64), and each one after its length (u64).
    at = header.value_offset(KEY_TENSOR_CHECKSUMS) + 12
    length = len(CHECKSUM_PLACEHOLDER)
    if {*map(len, stored_checksums(header).values())} != {length}:
        raise ModelFileError(f"{path} has no room for its checksums: convert the model again.")
    with path.open("r+b") as file:
        head = bytearray(file.read(header.nbytes))
        for name in header.tensors:
            head[at + 8 : at + 8 + length] = checksums[name].encode()
            at += 8 + length
        at = header.value_offset(KEY_HEADER_CHECKSUM) + 8
        head[at : at + length] = header.checksum(bytes(head)).encode()
        file.seek(0)
        file.write(head)
