"""Write a GGUF file as a stream: header first, then each tensor in pieces."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gguf import GGUF_DEFAULT_ALIGNMENT, GGUFWriter

from visionward.convert.encoding import Array, PlannedTensor, encoded_chunks

MetadataValue = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
Metadata = Mapping[str, MetadataValue]

# What is handed every raw piece of a tensor as it is read, and how many bytes were written for it.
Observer = Callable[[PlannedTensor, Array], None]
Advance = Callable[[PlannedTensor, int], None]


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


def header_bytes(architecture: str, metadata: Metadata, tensors: Sequence[PlannedTensor]) -> bytes:
    """Everything in front of the tensor data, padding included.

    Its length does not depend on what fixed-length strings in the metadata say.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer = GGUFWriter(path, architecture)
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


def padded_size(tensors: Sequence[PlannedTensor]) -> int:
    """Bytes of the tensor data, padding included."""
    return sum(tensor.nbytes + -tensor.nbytes % GGUF_DEFAULT_ALIGNMENT for tensor in tensors)


def write_tensor_data(
    file: BinaryIO, tensors: Sequence[PlannedTensor], *, observe: Observer | None = None, advance: Advance | None = None
) -> None:
    """Write all tensors' data, each padded to the alignment.

    Args:
        file: positioned behind the header.
        tensors: in the header's order.
        observe: is handed the checkpoint's own bytes of each piece.
        advance: is told of every piece that was written.
    """
    for tensor in tensors:
        written = 0
        for chunk in encoded_chunks(tensor, None if observe is None else partial(observe, tensor)):
            data = np.ascontiguousarray(chunk).data.cast("B")
            file.write(data)
            written += data.nbytes
            if advance is not None:
                advance(tensor, data.nbytes)
        if written != tensor.nbytes:
            raise AssertionError(f"{tensor.name}: wrote {written} bytes, the header says {tensor.nbytes}")
        file.write(bytes(-written % GGUF_DEFAULT_ALIGNMENT))
