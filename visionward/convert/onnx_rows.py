"""Quantize the rows of a matrix product to 8-bit integers with one scale per row.

Every row is first divided by its largest magnitude, so that one constant scale is right for all rows: the standard
operators QuantizeLinear and DequantizeLinear take no scale per row that is known only at run time. Both engines
recognise this pair of operators before a product and multiply integers (ONNX Runtime with MatMulIntegerToFloat,
OpenVINO with its quantized FullyConnected). The integers are unsigned, because x86 multiplies unsigned by signed
integers (VNNI). With two signed operands ONNX Runtime is twenty times slower there.
"""

from dataclasses import dataclass

import numpy as np

from visionward.convert.onnx_graph import OnnxGraph

# The divisor of rows of zeros.
_TINY = 1e-20
# The minimum of GELU (the erf form), at -0.7517916.
GELU_MINIMUM = -0.1699712


@dataclass(frozen=True)
class Rows:
    """Rows (rows, width) of a product: ``values * scale + shift``.

    Attributes:
        values: the operand that is multiplied with the weights.
        scale: factors for the product, one per row (rows, 1); empty for none.
        shift: a constant that must be added to every value.
    """

    values: str
    scale: str = ""
    shift: float = 0.0


def quantized_rows(graph: OnnxGraph, x: str) -> Rows:
    """Rows as integers around zero: 1 to 255, where 128 is zero."""
    largest = _largest(graph, graph.op("Abs", x))
    return Rows(_rounded(graph, graph.op("Div", x, largest), 1 / 127, zero=128), largest)


def quantized_gelu(graph: OnnxGraph, x: str) -> Rows:
    """Outputs of GELU as integers from 0 (its minimum) to 255, which is twice as fine as around zero."""
    above = graph.op("Sub", x, graph.constant(GELU_MINIMUM))
    largest = _largest(graph, above)
    return Rows(_rounded(graph, graph.op("Div", above, largest), 1 / 255, zero=0), largest, GELU_MINIMUM)


def _largest(graph: OnnxGraph, x: str) -> str:
    """The largest value of each row: (rows, 1)."""
    return graph.op("Max", graph.op("ReduceMax", x, graph.integers(-1), keepdims=1), graph.constant(_TINY))


def _rounded(graph: OnnxGraph, x: str, step: float, *, zero: int) -> str:
    scale, zero_point = graph.constant(step), graph.constant(zero, np.uint8)
    integers = graph.op("QuantizeLinear", x, scale, zero_point)
    return graph.op("DequantizeLinear", integers, scale, zero_point)
