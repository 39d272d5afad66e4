"""The reference's first-token logits and vision features on disk, which candidates are compared with.

Logits take half a megabyte per sample (128,256 rows in float32). Each array is a file in NumPy's format, followed by a
digest. It gets its name once it is complete. A file that cannot be read, or does not match its digest, counts as
missing.
"""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from visionward.formats.output_file import FileKind, Outputs, part_files

_DIGEST_BYTES = 16
# The folder belongs to the comparison: a file with an array's name is one, even if it is damaged.
_ARRAY = FileKind("array of a comparison", lambda path: path.suffix == ".npy")


def store_size(samples: int, rows: int) -> int:
    """Size in bytes of the logits of a number of samples."""
    return samples * rows * np.dtype(np.float32).itemsize


class ArrayStore:
    """A folder of float32 arrays.

    Args:
        folder: their folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Write an array. It is complete on disk when this returns.

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
        """Remove all arrays, and partial files of killed runs."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
