"""Weights of the ONNX tower, in float32, float16, or as integers of 8 or 4 bits with a scale for each block.

Integers are dequantized by the standard operator (DequantizeLinear with blocks); ONNX Runtime and OpenVINO both
recognise it in front of a product and keep the weights as integers, in memory and in the kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from visionward.convert.onnx_graph import OnnxGraph
from visionward.runtime.errors import QuantizeError
from visionward.runtime.mmproj_format import MmprojConfig, tensor_shapes

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
        block: elements that share a scale; smaller ones cost memory and speed, and save accuracy.
    """

    bits: int
    block: int

    @property
    def largest(self) -> int:
        """The largest magnitude: symmetric, so that zero stays zero."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def data_type(self) -> int:
        """ONNX's number."""
        return int(TensorProto.INT8 if self.bits == 8 else TensorProto.INT4)


# With 128 weights to a scale, features of the 11B shape came out at 1.98e-2 of float32's, with 64 at 1.86e-2.
INTEGER_TYPES = {"int8": IntegerType(8, 64), "int4": IntegerType(4, 32)}


class WeightEncoder:
    """Puts a source's tensors into a graph, in one of ``onnx_format.WEIGHT_TYPES``.

    What is added or multiplied elementwise stays float32, tables are float16 unless everything is float32, and
    matrices whose rows do not divide into blocks fall back to float16.
    """

    def __init__(self, graph: OnnxGraph, source: TowerSource, weight_type: str) -> None:
        self._graph = graph
        self._source = source
        self._type = weight_type
        self._shapes = tensor_shapes(source.config.vision, source.config.cross_attention)

    def vector(self, name: str) -> str:
        """A bias or the scale of a norm, float32."""
        return self._floats(name, self._shapes[name], lambda: self._source.array(name), half=False)

    def table(self, name: str, shape: tuple[int, ...], load: Callable[[], Floats]) -> str:
        """An embedding table that was computed from tensors, in float16 unless everything is float32.

        Take its rows before making them float32: the whole of it has 295 MB.
        """
        return self._floats(name, shape, load, half=self._type != "f32")

    def matrix(self, name: str) -> str:
        """A matrix to multiply rows with, (in, out); the source has it as (out, in)."""
        rows, columns = self._shapes[name]
        integer = INTEGER_TYPES.get(self._type)
        if integer is None or columns % integer.block:
            half = self._type != "f32"
            kept = self._floats(name, (columns, rows), lambda: self._source.array(name).T, half=half)
            return self._graph.op("Cast", kept, to=TensorProto.FLOAT) if half else kept
        # Integers and scales are made together and written one after the other.
        encode = cache(lambda: quantize_columns(self._source.array(name).T, integer))
        count = rows * columns
        kept = self._graph.weight(
            name, integer.data_type, (columns, rows), count * integer.bits // 8, lambda: packed(encode()[0], integer)
        )

        def scales() -> npt.NDArray[Any]:
            made = encode()[1]
            encode.cache_clear()
            return made

        blocks = (columns // integer.block, rows)
        scale = self._graph.weight(f"{name}.scale", TensorProto.FLOAT, blocks, 4 * blocks[0] * rows, scales)
        return self._graph.op("DequantizeLinear", kept, scale, axis=0, block_size=integer.block)

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
    blocks = weight.reshape(rows // kind.block, kind.block, columns)
    scales = np.abs(blocks).max(axis=1) / np.float32(kind.largest)
    # A smaller number has no inverse in float32.
    scales[scales < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    integers = np.rint(blocks * inverse[:, None]).clip(-kind.largest, kind.largest).astype(np.int8)
    return integers.reshape(rows, columns), scales.astype(np.float32)


def packed(integers: npt.NDArray[np.int8], kind: IntegerType) -> npt.NDArray[Any]:
    """Integers as ONNX stores them: two of four bits in a byte, the first in the low half."""
    if kind.bits == 8:
        return integers
    nibbles = integers.reshape(-1, 2).view(np.uint8) & 0xF
    return nibbles[:, 0] | (nibbles[:, 1] << 4)
