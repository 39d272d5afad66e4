"""First-token logits of the reference, on the disk: the divergence of a candidate needs every row of the head.

Half a megabyte a sample at 128,256 rows, in float32.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from visionward.runtime.errors import DataError

Logits = npt.NDArray[np.float32]
_ITEM = np.dtype(np.float32).itemsize


def store_size(samples: int, rows: int) -> int:
    """Bytes that a store of so many samples takes."""
    return samples * rows * _ITEM


class LogitWriter:
    """Writes rows at their places; what is written is on the disk when ``write`` returns."""

    def __init__(self, path: Path, rows: int) -> None:
        self._rows = rows
        path.touch()
        self._file = path.open("rb+")

    def write(self, slot: int, logits: Logits) -> None:
        """Write one row."""
        self._file.seek(slot * self._rows * _ITEM)
        self._file.write(np.ascontiguousarray(logits, dtype=np.float32).tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LogitReader:
    """Reads rows.

    Raises:
        DataError: if the file is missing or was cut.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        size = path.stat().st_size if path.exists() else 0
        count = size // (rows * _ITEM)
        self._rows: Logits | None = np.memmap(path, np.float32, mode="r", shape=(count, rows)) if count else None

    def read(self, slot: int) -> Logits:
        """One row."""
        if self._rows is None or slot >= len(self._rows):
            raise DataError(f"{self._path}: the reference's logits are missing; remove the folder to start over")
        return np.asarray(self._rows[slot])


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Log-probabilities in float64."""
    from scipy.special import log_softmax as scipy_log_softmax  # noqa: PLC0415 - in the extra

    return np.asarray(scipy_log_softmax(logits.astype(np.float64)))


def kl_divergence(reference: Logits, candidate: Logits) -> float:
    """KL(reference || candidate) of two next-token distributions, in nats, over all rows."""
    p, q = log_softmax(reference), log_softmax(candidate)
    # Rounding may leave a trace below zero where both are the same.
    return max(0.0, float(np.sum(np.exp(p) * (p - q))))


def relative_error(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> float:
    """Norm of the difference over the norm of the reference."""
    scale = float(np.linalg.norm(reference.astype(np.float64)))
    return float(np.linalg.norm(candidate.astype(np.float64) - reference.astype(np.float64))) / max(scale, 1e-300)
