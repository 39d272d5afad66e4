"""Encoding rows of numbers with ggml's own functions, on all cores."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from visionward.errors import QuantizeError
from visionward.machine.processor import usable_cores
from visionward.runtime.ggml import ggml

# Elements per unit of work: large enough to amortize the hand-over, small enough to balance the threads.
_PIECE = 1 << 18

_BF16 = GGMLQuantizationType.BF16


def row_nbytes(element_type: GGMLQuantizationType, row_length: int) -> int:
    """Bytes per row."""
    block_size, type_size = GGML_QUANT_SIZES[element_type]
    return row_length // int(block_size) * int(type_size)


def encode_rows(
    values: npt.NDArray[np.float32],
    element_type: GGMLQuantizationType,
    importance: npt.NDArray[np.float32] | None = None,
    *,
    threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Encode rows as ggml does.

    Args:
        values: float32 (rows, row length), finite.
        element_type: its block size divides the row length.
        importance: weight of each column, float32 (row length,), finite and not negative; None for equal weights.
        threads: None for all cores.

    Returns:
        uint8 (rows, bytes per row).

    Raises:
        QuantizeError: if a value is too large for the type.
    """
    rows, length = values.shape
    values = np.ascontiguousarray(values)
    stored = np.empty((rows, row_nbytes(element_type, length)), np.uint8)
    columns = None if importance is None else ggml.address_of(importance)

    def encode(first: int, count: int) -> bool:
        piece, target = values[first : first + count], stored[first : first + count]
        # ctypes releases the GIL, so pieces are encoded in parallel.
        ggml.quantize_chunk(
            int(element_type), ggml.address_of(piece), ggml.address_of(target), 0, count, length, columns
        )
        return bool(ggml.validate_row_data(int(element_type), ggml.address_of(target), target.nbytes))

    step = max(1, _PIECE // length)
    starts = range(0, rows, step)
    workers = min(threads or usable_cores(), len(starts))
    if workers <= 1:
        valid = [encode(start, min(step, rows - start)) for start in starts]
    else:
        with ThreadPoolExecutor(workers) as pool:
            valid = list(pool.map(lambda start: encode(start, min(step, rows - start)), starts))
    if not all(valid):
        largest = float(np.abs(values).max())
        raise QuantizeError(f"values up to {largest:g} are too large for {element_type.name}")
    return stored


def decode_rows(
    stored: npt.NDArray[np.uint8], element_type: GGMLQuantizationType, row_length: int
) -> npt.NDArray[np.float32]:
    """Decode rows of any type from their bytes (flat), as float32 (rows, row length)."""
    if element_type == _BF16:
        return (stored.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(-1, row_length)
    decoded: npt.NDArray[Any] = gguf.dequantize(stored.reshape(-1, row_nbytes(element_type, row_length)), element_type)
    return decoded.astype(np.float32, copy=False).reshape(-1, row_length)


def rows_at_once(row_length: int, elements: int = 1 << 23) -> int:
    """Rows that take about 32 MB as float32."""
    return max(1, elements // row_length)
