"""What a product's rows are made of before they meet the weights: nothing, or integers of 8 bits with a scale a row.

Rows are divided by their own largest magnitude first, so that one constant scale serves all of them: the standard
QuantizeLinear and DequantizeLinear take no scale that is only known at run time for each row. In front of a product
both engines recognise the pair, and multiply integers (ONNX Runtime as MatMulIntegerToFloat, OpenVINO as its quantized
FullyConnected). The integers are unsigned: x86 multiplies unsigned by signed ones (VNNI), and ONNX Runtime is twenty
times slower with two signed ones there.
"""

from dataclasses import dataclass

import numpy as np

from visionward.convert.onnx_graph import OnnxGraph

# For rows of zeros, which are divided by it.
_TINY = 1e-20
# erf's GELU is never lower: its value at -0.7517916.
GELU_LOWEST = -0.1699712


@dataclass(frozen=True)
class Rows:
    """Rows (rows, width) to multiply.

    Attributes:
        values: what to multiply with the weights.
        scale: what to multiply the product with, for each row (rows, 1); empty if nothing.
        shift: what is missing to every value, after the scale.
    """

    values: str
    scale: str = ""
    shift: float = 0.0


def quantized_rows(graph: OnnxGraph, x: str) -> Rows:
    """Rows as integers around zero: 1 to 255, and 128 is zero."""
    largest = _largest(graph, graph.op("Abs", x))
    return Rows(_rounded(graph, graph.op("Div", x, largest), 1 / 127, zero=128), largest)


def quantized_gelu(graph: OnnxGraph, x: str) -> Rows:
    """Rows that GELU made as integers from 0, its lowest value, to 255: twice as fine as around zero."""
    above = graph.op("Sub", x, graph.constant(GELU_LOWEST))
    largest = _largest(graph, above)
    return Rows(_rounded(graph, graph.op("Div", above, largest), 1 / 255, zero=0), largest, GELU_LOWEST)


def _largest(graph: OnnxGraph, x: str) -> str:
    """The largest value of each row: (rows, 1)."""
    return graph.op("Max", graph.op("ReduceMax", x, graph.integers(-1), keepdims=1), graph.constant(_TINY))


def _rounded(graph: OnnxGraph, x: str, step: float, *, zero: int) -> str:
    scale, zero_point = graph.constant(step), graph.constant(zero, np.uint8)
    integers = graph.op("QuantizeLinear", x, scale, zero_point)
    return graph.op("DequantizeLinear", integers, scale, zero_point)
