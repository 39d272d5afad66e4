"""Importance matrices in llama.cpp's GGUF format: for each matrix, the sum of squares of every column of its input.

A file that visionward writes has the statistics for both files of a pair. Those for the decoder have llama.cpp's
names, so that stock ``llama-quantize`` reads them too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from visionward.errors import QuantizeError
from visionward.formats.gguf_file import (
    MetadataValue,
    checksum_placeholders,
    header_bytes,
    write_checksums,
    write_tensor_data,
)
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_format import KEY_TENSOR_CHECKSUMS
from visionward.formats.output_file import GGUF, Outputs, part_files, prepare_folder
from visionward.formats.tensor_checksums import compare_checksums

# The importance of a column that was never active in the calibration samples, relative to a typical column.
_MIN_SHARE = 1e-3

_SUMS, _COUNTS = ".in_sum2", ".counts"

# Keys of the imatrix file.
_KEY_TYPE, _TYPE = "general.type", "imatrix"
_KEY_DATASETS = "imatrix.datasets"
_KEY_CHUNK_COUNT = "imatrix.chunk_count"
_KEY_CHUNK_SIZE = "imatrix.chunk_size"

# Keys of a file that was quantized with an importance matrix, as llama-quantize writes them.
KEY_FILE = "quantize.imatrix.file"
KEY_DATASET = "quantize.imatrix.dataset"
KEY_ENTRIES = "quantize.imatrix.entries_count"
KEY_CHUNKS = "quantize.imatrix.chunks_count"


@dataclass(frozen=True)
class ImatrixSource:
    """The importance matrix that a file was quantized with.

    Attributes:
        file: name of the file.
        dataset: name of the calibration data.
        entries: number of matrices with statistics.
        chunks: amount of calibration data, in the unit of the program that made the file (visionward: samples).
    """

    file: str
    dataset: str
    entries: int
    chunks: int


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix.

    Attributes:
        source: its origin.
        importance: tensor name to the mean square of every column of its input, float32 (columns,).
    """

    source: ImatrixSource
    importance: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of a matrix's input.

    Attributes:
        sums: sum of squares of every column, float64 (columns,).
        rows: number of rows in the sums.
    """

    sums: npt.NDArray[np.float64]
    rows: int


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix that visionward or llama.cpp wrote.

    Raises:
        ModelFileError: if the file is missing, damaged or not a GGUF file.
        QuantizeError: if it is not an importance matrix, or has values that are not finite.
    """
    header = GgufHeader(path)
    if not header.has(_KEY_TYPE) or header.get(_KEY_TYPE, str) != _TYPE:
        raise QuantizeError(f"{path} is not an importance matrix in GGUF format (general.type is not {_TYPE!r}).")
    if header.has(KEY_TENSOR_CHECKSUMS):
        compare_checksums(header)
    data = np.memmap(path, np.uint8, "r")

    def values(name: str) -> npt.NDArray[np.float32]:
        stored = header.tensors.get(name)
        if stored is None or stored.dtype != GGMLQuantizationType.F32:
            raise QuantizeError(f"{path} has no float32 tensor {name}: compute it again (visionward imatrix).")
        return data[stored.offset : stored.offset + stored.nbytes].view("<f4").reshape(stored.shape)

    importance = {}
    for name in sorted(header.tensors):
        if name.endswith(_SUMS):
            matrix = name.removesuffix(_SUMS)
            sums, counts = values(name), values(matrix + _COUNTS)
            # Experts that no token was routed to have no statistics. A dense matrix has one count.
            counts = counts.reshape(-1, 1)
            means = np.where(counts > 0, sums.reshape(len(counts), -1) / np.maximum(counts, 1), 1.0)
            if not np.isfinite(means).all() or (means < 0).any():
                raise QuantizeError(
                    f"{path}: the statistics of {matrix} are not finite: compute it again (visionward imatrix)."
                )
            importance[matrix] = _floored(means).astype(np.float32).reshape(-1)
    if not importance:
        raise QuantizeError(f"{path} has no statistics.")
    datasets = header.strings(_KEY_DATASETS) if header.has(_KEY_DATASETS) else []
    source = ImatrixSource(
        file=path.name,
        dataset=", ".join(name.decode("utf-8", "replace") for name in datasets) or "unknown",
        entries=len(importance),
        chunks=header.get(_KEY_CHUNK_COUNT, int) if header.has(_KEY_CHUNK_COUNT) else 0,
    )
    return Imatrix(source, importance)


def _floored(means: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Raise small values to a minimum. Blocks of columns without importance would be quantized to zero."""
    active = means[means > 0]
    # The median: in some layers a few very large columns dominate the mean.
    return np.maximum(means, _MIN_SHARE * np.median(active)) if active.size else np.ones_like(means)


@dataclass(frozen=True, eq=False)
class _Written:
    """One float32 tensor of the file."""

    name: str
    values: npt.NDArray[np.float32]
    element_type: GGMLQuantizationType = GGMLQuantizationType.F32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def write_imatrix(
    path: Path,
    statistics: Mapping[str, Statistics],
    *,
    dataset: str,
    samples: int,
    sample_tokens: int,
    inputs: tuple[Path, ...] = (),
    overwrite: bool = False,
) -> None:
    """Write an importance matrix.

    Args:
        path: the file.
        statistics: the statistics by tensor name.
        dataset: name of the calibration data.
        samples: number of calibration samples.
        sample_tokens: average number of tokens per sample, which llama.cpp shows.
        inputs: files that must not be replaced.
        overwrite: replace an existing GGUF file.

    Raises:
        OutputError: if it cannot be written, or would replace something that must not be replaced.
    """
    tensors = []
    for name, gathered in sorted(statistics.items()):
        tensors.append(_Written(name + _SUMS, gathered.sums.astype(np.float32)[None]))
        tensors.append(_Written(name + _COUNTS, np.array([[gathered.rows]], np.float32)))
    metadata: dict[str, MetadataValue] = {
        _KEY_TYPE: _TYPE,
        _KEY_DATASETS: [dataset],
        _KEY_CHUNK_COUNT: samples,
        _KEY_CHUNK_SIZE: sample_tokens,
    }
    prepare_folder(path.parent, sum(tensor.nbytes for tensor in tensors))
    with part_files(Outputs((path,), GGUF, inputs, overwrite)) as (part,):
        part.file.write(header_bytes(None, metadata | checksum_placeholders(len(tensors)), tensors))
        checksums = write_tensor_data(part.file, tensors, lambda tensor: iter([tensor.values]))
        part.file.flush()
        write_checksums(part.path, checksums)
