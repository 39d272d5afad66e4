"""Weights of the ONNX tower, in float32, float16, or as 8-bit integers.

Integers are dequantized by the standard operator DequantizeLinear. ONNX Runtime and OpenVINO recognise it before a
product and keep the weights as integers, in memory and in the kernel. There is one scale per column, so a product of
integers is the product of rows and columns up to their scales (onnx_rows.py).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from visionward.convert.onnx_graph import OnnxGraph
from visionward.errors import QuantizeError
from visionward.formats.mmproj_format import MmprojConfig, tensor_shapes

Floats = npt.NDArray[np.float32]


class TowerSource(Protocol):
    """The source of a tower's weights: a checkpoint or an mmproj file."""

    @property
    def config(self) -> MmprojConfig:
        """The model's shape."""

    @property
    def tower_hash(self) -> str:
        """The hash of the tower (``mmproj_file.tower_hash``)."""

    def array(self, name: str) -> Floats:
        """A tensor of the mmproj format, float32, rows first."""


# The range of integers is symmetric, so that zero stays zero.
MAX_INTEGER = 127


class WeightEncoder:
    """Adds tensors of a source to a graph, in one of ``onnx_format.WEIGHT_TYPES``.

    Vectors that are added or multiplied elementwise stay float32. Tables, and matrices that are not quantized, are
    float16 unless the type is f32.
    """

    def __init__(self, graph: OnnxGraph, source: TowerSource, weight_type: str) -> None:
        self._graph = graph
        self._source = source
        self._type = weight_type
        self._shapes = tensor_shapes(source.config.vision, source.config.cross_attention)
        # Integers and scales are computed together and written one after the other.
        self._quantized = lru_cache(maxsize=1)(self._quantize)

    def vector(self, name: str) -> str:
        """The scale or bias of a norm, float32."""
        return self._floats(name, self._shapes[name], lambda: self._source.array(name), half=False)

    def bias(self, layer: str, *, gate: float, shift: float) -> str:
        """A layer's bias, float32, times its gate, plus the product of a constant shift of all inputs."""
        name, weight = f"{layer}.bias", f"{layer}.weight"

        def load() -> Floats:
            values = self._source.array(name) * np.float32(gate)
            if shift:
                integers, scales = self._quantized(weight, gate)
                values += np.float32(shift) * scales * integers.sum(axis=0, dtype=np.int64).astype(np.float32)
            return values

        return self._floats(name, self._shapes[name], load, half=False)

    def table(self, name: str, shape: tuple[int, ...], load: Callable[[], Floats]) -> str:
        """An embedding table that is computed from tensors, in float16 unless the type is f32.

        Select rows before casting to float32: the whole table would take 295 MB.
        """
        return self._floats(name, shape, load, half=self._type != "f32")

    def matrix(self, name: str, *, gate: float = 1.0) -> str:
        """A matrix (in, out) for rows of floats. In the source it is (out, in), without the gate."""
        out, width = self._shapes[name]
        half = self._type != "f32"
        stored = self._floats(name, (width, out), lambda: self._gated(name, gate), half=half)
        return self._graph.op("Cast", stored, to=TensorProto.FLOAT) if half else stored

    def integer_matrix(self, name: str, *, gate: float = 1.0) -> str:
        """A matrix (in, out) of 8-bit integers for rows of 8-bit integers."""
        out, width = self._shapes[name]
        integers = self._graph.weight(
            name, TensorProto.INT8, (width, out), width * out, lambda: self._quantized(name, gate)[0]
        )
        scales = self._graph.weight(
            f"{name}.scale", TensorProto.FLOAT, (out,), 4 * out, lambda: self._quantized(name, gate)[1]
        )
        return self._graph.op("DequantizeLinear", integers, scales, axis=1)

    def _quantize(self, name: str, gate: float) -> tuple[npt.NDArray[np.int8], Floats]:
        weight = self._gated(name, gate)
        integers, scales = quantize_columns(weight)
        balance_columns(integers, weight, scales)
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
        raise QuantizeError(
            f"the tensor {name!r} has the value {largest:g}, which is too large for f16: export the tower as f32."
        )
    return values.astype(np.float16)


def quantize_columns(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Quantize a matrix (in, out), symmetric, rounding to nearest: integers (in, out) and scales (out,)."""
    scales = np.abs(weight).max(axis=0) / np.float32(MAX_INTEGER)
    # The inverse of a smaller number overflows float32.
    scales[scales < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    integers = np.rint(weight * inverse).clip(-MAX_INTEGER, MAX_INTEGER).astype(np.int8)
    return integers, scales.astype(np.float32)


def balance_columns(integers: npt.NDArray[np.int8], weight: Floats, scales: Floats) -> None:
    """Change the integers with the largest rounding errors by one, until the errors of every column cancel.

    A constant part of all inputs, such as the mean of GELU's outputs, is then multiplied without error. At the 11B
    shape this reduced the error of the features from 2.03e-2 to 1.89e-2.

    Args:
        integers: the quantized matrix (in, out), changed in place.
        weight: the matrix (in, out).
        scales: the scales of the columns (out,).
    """
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    for column, exact, by in zip(integers.T, weight.T, inverse, strict=True):
        errors = column - exact * by
        excess = int(np.rint(errors.sum(dtype=np.float64)))
        if excess:
            # The error of an integer at the end of its range never points beyond the range.
            farthest = np.argpartition(-errors if excess > 0 else errors, abs(excess))[: abs(excess)]
            column[farthest] -= np.int8(np.sign(excess))
