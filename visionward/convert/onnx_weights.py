"""Weights of the ONNX tower, in float32, float16, or as integers of 8 bits.

Integers are dequantized by the standard operator (DequantizeLinear); ONNX Runtime and OpenVINO both recognise it in
front of a product and keep the weights as integers, in memory and in the kernel. They have one scale for a column, so
that a product of integers is the product of the rows and columns up to their scales (onnx_rows.py).
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
    """Where a tower's weights come from: a checkpoint or an mmproj file."""

    @property
    def config(self) -> MmprojConfig:
        """The model's shape."""

    @property
    def tower_hash(self) -> str:
        """What tells the tower from others of its shape (``mmproj_file.tower_hash``)."""

    def array(self, name: str) -> Floats:
        """A tensor of the mmproj format, float32, rows first."""


# The largest magnitude of an integer: symmetric, so that zero stays zero.
LARGEST = 127


class WeightEncoder:
    """Puts a source's tensors into a graph, in one of ``onnx_format.WEIGHT_TYPES``.

    What is added or multiplied elementwise stays float32; tables, and matrices that are not to be integers, are float16
    unless everything is float32.
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
                integers, scales = self._quantized(weight, gate)
                values += np.float32(shift) * scales * integers.sum(axis=0, dtype=np.int64).astype(np.float32)
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
        half = self._type != "f32"
        kept = self._floats(name, (width, out), lambda: self._gated(name, gate), half=half)
        return self._graph.op("Cast", kept, to=TensorProto.FLOAT) if half else kept

    def integer_matrix(self, name: str, *, gate: float = 1.0) -> str:
        """A matrix (in, out) of 8 bits to multiply rows of 8 bits with."""
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
        raise QuantizeError(f"the tensor {name!r} holds {largest:g}, too large for f16: export the tower as f32.")
    return values.astype(np.float16)


def quantize_columns(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Integers (in, out) and scales (out,) of a matrix (in, out): round to nearest, symmetric."""
    scales = np.abs(weight).max(axis=0) / np.float32(LARGEST)
    # A smaller number has no inverse in float32.
    scales[scales < np.finfo(np.float32).tiny] = 0
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    integers = np.rint(weight * inverse).clip(-LARGEST, LARGEST).astype(np.int8)
    return integers, scales.astype(np.float32)


def balance_columns(integers: npt.NDArray[np.int8], weight: Floats, scales: Floats) -> None:
    """Change integers (in, out) by one where that costs least, until the rounding errors of every column cancel.

    What all values of a row have in common, as those behind GELU have their mean, is then multiplied without an error.
    At the 11B shape that took the features from 2.03e-2 to 1.89e-2 off.

    Args:
        integers: changed in place.
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
