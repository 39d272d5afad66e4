"""Weights of the ONNX tower, in float32, float16, or as integers of 8 or 4 bits.

Integers are dequantized by the standard operator (DequantizeLinear); ONNX Runtime and OpenVINO both recognise it in
front of a product and keep the weights as integers, in memory and in the kernel. Those of 8 bits have one scale for a
column, so that a product of integers is the product of the rows and columns up to their scales (onnx_rows.py); those of
4 bits are too coarse for that, and have one for each block of a column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from visionward.convert.onnx_graph import OnnxGraph
from visionward.runtime.errors import QuantizeError
from visionward.runtime.mmproj_format import MmprojConfig, tensor_shapes
from visionward.runtime.onnx_format import SCALE

Floats = npt.NDArray[np.float32]


class TowerSource(Protocol):
    """Where a tower's weights come from: a checkpoint or an mmproj file."""

    @property
    def config(self) -> MmprojConfig:
        """The model's shape."""

    @property
    def tower_hash(self) -> str:
        """What tells the tower from others of its shape (``mmproj_file.tower_hash``)."""

    def array(self, name: str) -> Floats:
        """A tensor of the mmproj format, float32, rows first."""


@dataclass(frozen=True)
class IntegerType:
    """Integers with one scale for a block of a column.

    Attributes:
        bits: of an integer.
        block: elements that share a scale, or None for a whole column; smaller ones cost memory and speed, and save
            accuracy.
    """

    bits: int
    block: int | None = None

    @property
    def largest(self) -> int:
        """The largest magnitude: symmetric, so that zero stays zero."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def data_type(self) -> int:
        """ONNX's number."""
        return int(TensorProto.INT8 if self.bits == 8 else TensorProto.INT4)


INT4_BLOCK = 32
INT8, INT4 = IntegerType(8), IntegerType(4, INT4_BLOCK)


class WeightEncoder:
    """Puts a source's tensors into a graph, in one of ``onnx_format.WEIGHT_TYPES``.

    What is added or multiplied elementwise stays float32, tables are float16 unless everything is float32, and
    matrices that are not to be integers, or do not divide into blocks, fall back to float16.
    """

    def __init__(self, graph: OnnxGraph, source: TowerSource, weight_type: str) -> None:
        self._graph = graph
        self._source = source
        self._type = weight_type
        self._shapes = tensor_shapes(source.config.vision, source.config.cross_attention)
        # Integers and scales are made together and written one after the other.
        self._quantized = lru_cache(maxsize=1)(self._quantize)

    def vector(self, name: str) -> str:
        """The scale or bias of a norm, float32."""
        return self._floats(name, self._shapes[name], lambda: self._source.array(name), half=False)

    def bias(self, layer: str, *, gate: float, shift: float) -> str:
        """A layer's bias, float32, times what its gate lets through; and what a shift of all its rows' values adds."""
        name, weight = f"{layer}.bias", f"{layer}.weight"

        def load() -> Floats:
            values = self._source.array(name) * np.float32(gate)
            if shift:
                integers, scales = self._quantized(weight, gate, INT8)
                values += np.float32(shift) * scales[0] * integers.sum(axis=0, dtype=np.int64).astype(np.float32)
            return values

        return self._floats(name, self._shapes[name], load, half=False)

    def table(self, name: str, shape: tuple[int, ...], load: Callable[[], Floats]) -> str:
        """An embedding table that was computed from tensors, in float16 unless everything is float32.

        Take its rows before making them float32: the whole of it has 295 MB.
        """
        return self._floats(name, shape, load, half=self._type != "f32")

    def matrix(self, name: str, *, gate: float = 1.0) -> str:
        """A matrix (in, out) to multiply rows of floats with; the source has it as (out, in), without the gate."""
        out, width = self._shapes[name]
        if self._type == "int4" and width % INT4_BLOCK == 0:
            integers, scales = self._integers(name, gate, INT4, (width // INT4_BLOCK, out))
            return self._graph.op("DequantizeLinear", integers, scales, axis=0, block_size=INT4_BLOCK)
        half = self._type != "f32"
        kept = self._floats(name, (width, out), lambda: self._gated(name, gate), half=half)
        return self._graph.op("Cast", kept, to=TensorProto.FLOAT) if half else kept

    def integer_matrix(self, name: str, *, gate: float = 1.0) -> str:
        """A matrix (in, out) of 8 bits to multiply rows of 8 bits with."""
        integers, scales = self._integers(name, gate, INT8, (self._shapes[name][0],))
        return self._graph.op("DequantizeLinear", integers, scales, axis=1)

    def _integers(self, name: str, gate: float, kind: IntegerType, scales: tuple[int, ...]) -> tuple[str, str]:
        """The integers of a matrix, and its scales in the shape that the graph wants."""
        out, width = self._shapes[name]
        nbytes = out * width * kind.bits // 8
        integers = self._graph.weight(
            name, kind.data_type, (width, out), nbytes, lambda: packed(self._quantized(name, gate, kind)[0], kind)
        )
        count = int(np.prod(scales))
        return integers, self._graph.weight(
            name + SCALE, TensorProto.FLOAT, scales, 4 * count, lambda: self._quantized(name, gate, kind)[1]
        )

    def _quantize(self, name: str, gate: float, kind: IntegerType) -> tuple[npt.NDArray[np.int8], Floats]:
        weight = self._gated(name, gate)
        integers, scales = quantize_columns(weight, kind)
        if kind is INT8:
            balance_columns(integers, weight, scales[0])
        return integers, scales

    def _gated(self, name: str, gate: float) -> Floats:
        matrix: Floats = self._source.array(name).T
        return matrix if gate == 1 else matrix * np.float32(gate)

    def _floats(self, name: str, shape: tuple[int, ...], load: Callable[[], Floats], *, half: bool) -> str:
        count = int(np.prod(shape))
        if not half:
            return self._graph.weight(name, TensorProto.FLOAT, shape, 4 * count, load)
        return self._graph.weight(name, TensorProto.FLOAT16, shape, 2 * count, lambda: as_float16(name, load()))


def as_float16(name: str, values: Floats) -> npt.NDArray[np.float16]:
    """Values in float16.

    Raises:
        QuantizeError: if one is too large.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise QuantizeError(f"the tensor {name!r} holds {largest:g}, too large for f16: export the tower as f32.")
    return values.astype(np.float16)


def quantize_columns(weight: Floats, kind: IntegerType) -> tuple[npt.NDArray[np.int8], Floats]:
    """Integers (in, out) and scales (in / block, out) of a matrix (in, out): round to nearest, symmetric."""
    rows, columns = weight.shape
    blocks = weight.reshape(-1, kind.block or rows, columns)
    scales = np.abs(blocks).max(axis=1) / np.float32(kind.largest)
    # A smaller number has no inverse in float32.
    scales[scales < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    integers = np.rint(blocks * inverse[:, None]).clip(-kind.largest, kind.largest).astype(np.int8)
    return integers.reshape(rows, columns), scales.astype(np.float32)


def balance_columns(integers: npt.NDArray[np.int8], weight: Floats, scales: Floats) -> None:
    """Change integers (in, out) by one where that costs least, until the rounding errors of every column cancel.

    What all values of a row have in common, as those behind GELU have their mean, is then multiplied without an error.
    At the 11B shape that took the features from 2.03e-2 to 1.89e-2 off.

    Args:
        integers: of ``INT8``, changed in place.
        weight: what they stand for (in, out).
        scales: of the columns (out,).
    """
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    for column, exact, by in zip(integers.T, weight.T, inverse, strict=True):
        errors = column - exact * by
        excess = int(np.rint(errors.sum(dtype=np.float64)))
        if excess:
            # An integer at the end of its range has no error that could take it further.
            farthest = np.argpartition(-errors if excess > 0 else errors, abs(excess))[: abs(excess)]
            column[farthest] -= np.int8(np.sign(excess))


def packed(integers: npt.NDArray[np.int8], kind: IntegerType) -> npt.NDArray[Any]:
    """Integers as ONNX stores them: two of four bits in a byte, the first in the low half."""
    if kind.bits == 8:
        return integers
    nibbles = integers.reshape(-1, 2).view(np.uint8) & 0xF
    return nibbles[:, 0] | (nibbles[:, 1] << 4)
