"""Arrays of the reference, on the disk: a candidate's divergence needs every row of the head, its features all of them.

Half a megabyte a sample at 128,256 rows, in float32. Each array is a file of its own, in NumPy's format with a digest
behind it. It gets its name when it is whole, and what cannot be read, or has another digest, counts as missing.
"""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from visionward.formats.output_file import FileKind, Outputs, part_files

_DIGEST_BYTES = 16
# The folder is the comparison's own: what has an array's name in it is one, however damaged.
_ARRAY = FileKind("array of a comparison", lambda path: path.suffix == ".npy")


def store_size(samples: int, rows: int) -> int:
    """Bytes that the logits of so many samples take."""
    return samples * rows * np.dtype(np.float32).itemsize


class ArrayStore:
    """A folder of float32 arrays.

    Args:
        folder: where they are; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Write an array; it is on the disk, whole, when this returns.

        Raises:
            OutputError: if it cannot be written.
        """
        buffer = BytesIO()
        np.save(buffer, np.asarray(values, np.float32), allow_pickle=False)
        data = buffer.getvalue()
        with part_files(Outputs((self._path(name),), _ARRAY, overwrite=True)) as (part,):
            part.file.write(data)
            part.file.write(_digest(data))

    def read(self, name: str) -> npt.NDArray[np.float32] | None:
        """An array; None if it is missing or damaged."""
        try:
            stored = self._path(name).read_bytes()
        except OSError:
            return None
        data = stored[:-_DIGEST_BYTES]
        if stored[-_DIGEST_BYTES:] != _digest(data):
            return None
        values: npt.NDArray[np.float32] = np.load(BytesIO(data), allow_pickle=False)
        return values

    def remove(self) -> None:
        """Remove all arrays, and what killed runs left of some."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
