"""Parts of graphs, against NumPy."""

from contextlib import closing

import numpy as np
import pytest

from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.device_list import cpu_device
from visionward.runtime.ggml.graph import Allocator, Graph, read


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        ({}, 0),
        ({7: 65504.0}, 1),
        ({7: -65504.0, 90: 1e9}, 2),
        ({7: 65499.0}, 0),
        ({5: np.inf}, None),
        ({5: np.nan}, None),
    ],
)
def test_numbers_above_a_bound(put: dict[int, float], expected: int | None) -> None:
    """None: the count is not zero, whatever it is."""
    values = np.random.default_rng(0).normal(0, 1000, (3, 40)).astype(np.float32)
    for index, value in put.items():
        values.flat[index] = value
    with closing(Device(cpu_device(), 1)) as device, closing(Allocator(device)) as allocator, Graph(allocator) as graph:
        count = graph.count_above(graph.input(values), 65500)
        graph.output(count)
        graph.compute()
        found = read(count, (1,))[0]
    assert found == expected if expected is not None else found != 0
