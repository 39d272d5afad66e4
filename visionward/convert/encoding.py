"""Encode tensors of a checkpoint in GGUF's element types and layouts, a few megabytes at a time."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from visionward.errors import CheckpointError, QuantizeError
from visionward.formats.safetensors_reader import STORAGE, CheckpointTensor
from visionward.machine.processor import usable_cores
from visionward.quant.tensor_types import UNQUANTIZED
from visionward.runtime.ggml.row_encoding import encode_rows

Array = npt.NDArray[Any]

# Elements that need no conversion: their bytes in the checkpoint and in the GGUF file are equal.
_SAME = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}

# Bits of the exponent. If all are set, the value is infinite or NaN.
_EXPONENT = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}

_F16_MAX = float(np.finfo(np.float16).max)

# q8_0 stores the largest magnitude of a block, divided by 127, as f16.
_MAX_MAGNITUDE = {GGMLQuantizationType.F16: _F16_MAX, GGMLQuantizationType.Q8_0: _F16_MAX * 127}


# Pieces that are encoded at the same time. Each takes up to 50 MB until it is written.
_MAX_PIECES = 8

_MAGNITUDE = np.uint16(0x7FFF)
# 2^-14 in bfloat16, the smallest normal number of float16, and the float16 values of all numbers below it.
_SMALLEST_NORMAL = (127 - 14) << 7
_SMALL_AS_FLOAT16 = (
    (np.arange(_SMALLEST_NORMAL, dtype=np.uint32) << np.uint32(16)).view(np.float32).astype(np.float16).view(np.uint16)
)


@dataclass(frozen=True)
class Reorder:
    """A permutation of the elements within blocks of rows.

    Attributes:
        rows: rows per block.
        apply: permutes the elements of whole blocks.
    """

    rows: int
    apply: Callable[[Array], Array]


def rope_reorder(head_width: int) -> Reorder:
    """The order of query and key rows in llama.cpp.

    Hugging Face rotates element i of a head with element i + half. llama.cpp, like Meta's code, rotates neighbours.
    """

    def apply(rows: Array) -> Array:
        halves = rows.reshape(-1, 2, head_width // 2, rows.shape[-1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)

    return Reorder(head_width, apply)


def projector_reorder(width: int, state_count: int) -> Reorder:
    """Columns in blocks (final state, then each intermediate state) instead of interleaved intermediate states."""

    def apply(rows: Array) -> Array:
        states = rows[:, width:].reshape(-1, width, state_count).swapaxes(1, 2).reshape(-1, width * state_count)
        return np.concatenate([rows[:, :width], states], axis=1)

    return Reorder(1, apply)


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of a file that will be written.

    Attributes:
        name: its GGUF name.
        shape: rows first. Rows that ``source`` does not have are zero.
        element_type: its type in the file.
        source: a tensor of the checkpoint, or computed f32 values.
        reorder: a permutation of its elements; None for none.
    """

    name: str
    shape: tuple[int, ...]
    element_type: GGMLQuantizationType
    source: CheckpointTensor | npt.NDArray[np.float32]
    reorder: Reorder | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        block_size, type_size = GGML_QUANT_SIZES[self.element_type]
        return math.prod(self.shape) // int(block_size) * int(type_size)


def as_float32(stored: Array, dtype: str) -> npt.NDArray[np.float32]:
    """Elements as f32, which represents all supported dtypes exactly."""
    if dtype == "BF16":
        return np.left_shift(stored, np.uint32(16), dtype=np.uint32).view(np.float32)
    return stored.astype(np.float32, copy=False)


def bfloat16_to_float16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Convert the bits of bfloat16 values to those of float16, rounded to nearest even. No value may overflow.

    Normal numbers of float16 are shifted (10 instead of 7 bits of mantissa, exponent bias 15 instead of 127), in a
    third of the time that the conversion over float32 takes. The few smaller numbers are looked up.
    """
    flat = bits.reshape(-1)
    magnitude = flat & _MAGNITUDE
    shifted = magnitude << np.uint16(3)
    shifted -= np.uint16((127 - 15) << 10 & 0xFFFF)
    small = np.flatnonzero(magnitude < _SMALLEST_NORMAL)
    shifted[small] = _SMALL_AS_FLOAT16[magnitude[small]]
    shifted |= flat & ~_MAGNITUDE
    return shifted.reshape(bits.shape)


def _largest_bits(rows: Array) -> Array:
    """The element with the largest magnitude, (1,), as an unsigned integer without the sign bit.

    The bit patterns of floating-point numbers are ordered by magnitude, with infinity and NaN last. So one cheap pass
    finds both the largest value and values that are not finite.
    """
    bits = rows.view(f"<u{rows.dtype.itemsize}")
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return np.array([np.max(bits & magnitude, initial=0)], bits.dtype)


def encode(
    name: str, rows: Array, dtype: str, element_type: GGMLQuantizationType, *, threads: int | None = None
) -> Array:
    """Encode rows of a tensor.

    Args:
        name: the tensor's name, for error messages.
        rows: the elements as stored (rows, columns).
        dtype: the checkpoint's name of their dtype.
        element_type: the type to encode them in.
        threads: number of threads; all cores if not given.

    Raises:
        CheckpointError: if an element is not finite, or too large for the type.
    """
    largest_bits = _largest_bits(rows)
    if int(largest_bits[0]) >= _EXPONENT[dtype]:
        raise CheckpointError(f"the tensor {name!r} has values that are not finite")
    if _SAME[dtype] == element_type:
        return rows
    largest = _MAX_MAGNITUDE.get(element_type)
    # F16 values fit into every type that has a limit.
    if largest is not None and dtype != "F16":
        magnitude = float(as_float32(largest_bits.view(rows.dtype), dtype)[0])
        if magnitude > largest:
            raise CheckpointError(
                f"the tensor {name!r} has the value {magnitude:g}, and the largest {element_type.name} value is "
                f"{largest:g}; convert to bf16 or f32"
            )
    if dtype == "BF16" and element_type == GGMLQuantizationType.F16:
        return bfloat16_to_float16(rows)
    values = as_float32(rows, dtype)
    if element_type in UNQUANTIZED and element_type != GGMLQuantizationType.F16:
        encoded: Array = quants.quantize(np.ascontiguousarray(values), element_type)
        return encoded
    try:
        # For f16 too: ggml's conversion gives the same bits in a fifth of the time of numpy's.
        return encode_rows(values, element_type, threads=threads)
    except QuantizeError as error:
        raise CheckpointError(f"the tensor {name!r}: {error}; convert to bf16 or f32") from error


def _zero_rows(plan: PlannedTensor, rows: int) -> Array:
    block_size, type_size = GGML_QUANT_SIZES[plan.element_type]
    # Zero bytes are zeros in every type that is written here, also in q8_0 (scale 0).
    return np.zeros((rows, plan.shape[-1] // int(block_size) * int(type_size)), np.uint8)


def encoded_chunks(plan: PlannedTensor, observe: Callable[[Array], None] | None = None) -> Iterator[Array]:
    """The encoded bytes of a tensor, piece by piece, in file order. The next pieces are encoded ahead on all cores.

    Args:
        plan: the tensor.
        observe: called with every piece as the checkpoint has it, in order, in another thread.
    """
    row_length = plan.shape[-1]
    if isinstance(plan.source, np.ndarray):
        yield encode(plan.name, plan.source.reshape(-1, row_length), "F32", plan.element_type)
        return
    source, reorder, written = plan.source, plan.reorder, 0

    def encoded(stored: Array) -> Array:
        rows = reorder.apply(stored) if reorder else stored
        return encode(source.name, rows, source.dtype, plan.element_type, threads=1)

    workers = min(usable_cores(), _MAX_PIECES)
    ahead: deque[tuple[Future[None] | None, Future[Array]]] = deque()

    def next_piece() -> Array:
        observed, piece = ahead.popleft()
        if observed is not None:
            observed.result()
        return piece.result()

    with ThreadPoolExecutor(1) as observer, ThreadPoolExecutor(workers) as pool:
        for stored in source.chunks(row_length, reorder.rows if reorder else 1):
            observed = None if observe is None else observer.submit(observe, stored)
            ahead.append((observed, pool.submit(encoded, stored)))
            written += len(stored)
            if len(ahead) > workers:
                yield next_piece()
        while ahead:
            yield next_piece()
    missing = math.prod(plan.shape[:-1]) - written
    step = max(1, (8 << 20) // (row_length * STORAGE["F32"].itemsize))
    for start in range(0, missing, step):
        yield _zero_rows(plan, min(step, missing - start))
