"""Build an ONNX graph whose weights are in a separate data file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

# Gelu needs opset 20. The engines were measured with opset 21, which belongs to IR version 10.
OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"
# Large weights begin on a page, so that engines can map them, smaller ones on a cache line.
PAGE, LINE = 4096, 64
LARGE = 2**20


@dataclass(frozen=True)
class ExternalTensor:
    """A weight in the data file.

    Attributes:
        name: its name in the graph.
        data_type: ONNX's number of its element type.
        shape: its shape in ONNX.
        nbytes: bytes in the data file.
        offset: offset in the data file.
        load: returns its values.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    load: Callable[[], Array]

    def proto(self, location: str) -> TensorProto:
        """The graph's reference to it."""
        proto = TensorProto(name=self.name, data_type=self.data_type, dims=self.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", self.offset), ("length", self.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        return proto


class OnnxGraph:
    """A graph under construction. Methods take and return names of values."""

    def __init__(self) -> None:
        self.external: list[ExternalTensor] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}

    def op(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A small constant, which is stored in the graph. Equal constants are stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return str(self._constants[key].name)

    def integers(self, *values: int) -> str:
        """A constant vector of int64, for shapes, axes and indices."""
        return self.constant(values, np.int64)

    def weight(self, name: str, data_type: int, shape: Sequence[int], nbytes: int, load: Callable[[], Array]) -> str:
        """A weight, which is stored in the data file."""
        last = self.external[-1] if self.external else None
        end = 0 if last is None else last.offset + last.nbytes
        offset = end + -end % (PAGE if nbytes >= LARGE else LINE)
        self.external.append(ExternalTensor(name, data_type, tuple(shape), nbytes, offset, load))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """``x`` in another shape. As in ONNX, one extent may be -1 (inferred), and 0 keeps the extent."""
        return self.op("Reshape", x, self.integers(*shape))

    def rows(self, x: str, first: str, end: str) -> str:
        """Rows ``first`` to ``end`` (values of shape (1,)) along the first axis."""
        return self.op("Slice", x, first, end, self.integers(0))

    def concat(self, *parts: str, axis: int) -> str:
        """The parts concatenated along an axis."""
        return self.op("Concat", *parts, axis=axis)

    def expand(self, x: str, *extents: str) -> str:
        """``x`` broadcast to the extents, which are values of shape (1,)."""
        return self.op("Expand", x, self.concat(*extents, axis=0))

    @property
    def data_bytes(self) -> int:
        """Size of the data file."""
        return self.external[-1].offset + self.external[-1].nbytes

    def data(self) -> Iterator[Array]:
        """The content of the data file, piece by piece, padding included."""
        end = 0
        for tensor in self.external:
            yield np.zeros(tensor.offset - end, np.uint8)
            content = np.ascontiguousarray(tensor.load()).view(np.uint8).reshape(-1)
            if content.nbytes != tensor.nbytes:
                raise AssertionError(f"{tensor.name}: {content.nbytes} bytes, the graph says {tensor.nbytes}")
            yield content
            end = tensor.offset + tensor.nbytes

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        output: onnx.ValueInfoProto,
        result: str,
        *,
        location: str,
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            inputs: inputs of the graph.
            output: output of the graph.
            result: name of the value that becomes the output.
            location: name of the data file, in the folder of the model.
            metadata: the model's metadata properties.
        """
        nodes = [*self._nodes, helper.make_node("Identity", [result], [output.name])]
        weights = [*self._constants.values(), *(tensor.proto(location) for tensor in self.external)]
        graph = helper.make_graph(nodes, "vision_tower", list(inputs), [output], weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, producer_name="visionward", opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, metadata)
        return model
