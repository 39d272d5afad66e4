"""Read the safetensors files of a checkpoint piece by piece, without the safetensors package.

The format: a length of eight bytes, little-endian; a header of that length in JSON (name -> dtype, shape,
data_offsets); the data.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from visionward.errors import CheckpointError
from visionward.formats.checkpoint_json import MAX_BYTES
from visionward.formats.regular_file import open_regular
from visionward.formats.whole_text import read_text
from visionward.machine.shell import command_text

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

# The numpy dtype for each supported dtype. numpy has no bfloat16.
STORAGE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

# Bytes of source data that are in memory at a time.
CHUNK_BYTES = 8 << 20

# How the file begins that Git leaves in place of a large one.
_LFS_POINTER = b"version https://git-lfs"
# The safetensors library's own limit for a header.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor in a safetensors file.

    Attributes:
        name: its name in the file.
        dtype: ``F32``, ``F16`` or ``BF16``.
        shape: rows first.
        path: the file.
        offset: offset of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * STORAGE[self.dtype].itemsize

    def chunks(self, row_length: int, multiple: int = 1) -> Iterator[npt.NDArray[Any]]:
        """Read the tensor as rows of ``row_length`` elements, a few megabytes at a time.

        Args:
            row_length: elements per row; the tensor's size is a multiple of it.
            multiple: the number of rows of every chunk is a multiple of this.

        Raises:
            CheckpointError: if the file ends inside the tensor.
        """
        storage = STORAGE[self.dtype]
        unit = row_length * multiple
        step = max(1, CHUNK_BYTES // (unit * storage.itemsize)) * unit
        with open_regular(self.path) as file:
            file.seek(self.offset)
            for start in range(0, self.size, step):
                count = min(step, self.size - start)
                data = np.fromfile(file, dtype=storage, count=count)
                if data.size != count:
                    raise CheckpointError(f"{self.path}: the file ends inside the tensor {self.name!r}")
                yield data.reshape(-1, row_length)


def download_hint(folder: Path) -> str:
    """How to get a checkpoint into a folder. Without a login, gated weights are left out of a download."""
    command = command_text(
        *("hf", "download", "meta-llama/Llama-Guard-3-11B-Vision", "--exclude", "original/*", "--local-dir", folder)
    )
    return (
        "download the checkpoint in Hugging Face format. For Llama Guard 3 11B Vision, accept the licence on the "
        f"model's page, then run `hf auth login` and `{command}`"
    )


def _stored_tensor(path: Path, name: str, entry: Any, data_start: int, data_size: int) -> CheckpointTensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header's entry for {name!r} is malformed") from error
    if dtype not in STORAGE:
        raise CheckpointError(
            f"{path}: {name!r} has dtype {dtype}; only {', '.join(STORAGE)} can be converted, quantized checkpoints "
            "cannot"
        )
    tensor = CheckpointTensor(name, dtype, shape, path, data_start + begin)
    if min(shape, default=1) < 0 or begin < 0 or end - begin != tensor.nbytes:
        raise CheckpointError(
            f"{path}: {name!r} of shape {shape} in {dtype} needs {tensor.nbytes} bytes, the header says {end - begin}"
        )
    if end > data_size:
        raise CheckpointError(
            f"{path}: the file is truncated: {name!r} ends at byte {data_start + end} of {data_start + data_size}; "
            "download it again"
        )
    return tensor


def read_header(path: Path) -> dict[str, CheckpointTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: if the file is missing, damaged or truncated, or has a dtype that cannot be converted.
    """
    try:
        with open_regular(path) as file:
            file_size = file.seek(0, 2)
            file.seek(0)
            start = file.read(len(_LFS_POINTER))
            if start == _LFS_POINTER:
                raise CheckpointError(f"{path}: a Git LFS pointer instead of the weights; run `git lfs pull`")
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if file_size < 8 or length > min(file_size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: not a safetensors file, or truncated inside its header; download it again"
                )
            raw = file.read(length)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise CheckpointError(f"{path}: the safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not a JSON object")
    return {
        name: _stored_tensor(path, name, entry, 8 + length, file_size - 8 - length)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _shards(checkpoint: Path) -> dict[str, list[str]]:
    """Shard file name -> names of its tensors according to the index."""
    path = checkpoint / INDEX_FILE
    try:
        weight_map = json.loads(read_text(path, MAX_BYTES))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            shards.setdefault(str(file), []).append(str(name))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a safetensors index") from error
    for file in shards:
        if Path(file).name != file:
            raise CheckpointError(f"{path}: the shard {file!r} is not a file name")
    return shards


def read_tensors(checkpoint: Path) -> dict[str, CheckpointTensor]:
    """Every tensor of a checkpoint directory, from its single file or from all its shards.

    Raises:
        CheckpointError: if there are no safetensors files, one is missing or damaged, or one contradicts the index.
    """
    if (checkpoint / SINGLE_FILE).exists():
        return read_header(checkpoint / SINGLE_FILE)
    if not (checkpoint / INDEX_FILE).exists():
        raise CheckpointError(
            f"{checkpoint}: there are no weights ({SINGLE_FILE} or {INDEX_FILE}) in this folder; "
            f"{download_hint(checkpoint)}"
        )
    shards = _shards(checkpoint)
    absent = sorted(file for file in shards if not (checkpoint / file).exists())
    if absent:
        raise CheckpointError(
            f"{checkpoint}: {len(absent)} of {len(shards)} weight files are missing ({', '.join(absent)}); "
            f"{download_hint(checkpoint)}"
        )
    tensors: dict[str, CheckpointTensor] = {}
    for file, names in sorted(shards.items()):
        found = read_header(checkpoint / file)
        for name in names:
            if name not in found:
                raise CheckpointError(f"{checkpoint / file}: {name!r} is missing, although {INDEX_FILE} lists it here")
        for name in found.keys() & tensors.keys():
            raise CheckpointError(f"{checkpoint / file}: {name!r} is also in {tensors[name].path.name}")
        tensors |= found
    return tensors
