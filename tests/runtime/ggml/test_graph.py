"""Parts of graphs, against NumPy."""

from contextlib import closing

import numpy as np
import pytest

from visionward.runtime.ggml import graph as graphs
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


@pytest.mark.parametrize("widened", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 65])
def test_products_with_float16_weights_do_not_overflow(monkeypatch, rows: int, widened: bool) -> None:
    """A sum of 2,048 products of 64 and 8 is infinite in float16, in which some CPUs add up."""
    if widened:
        monkeypatch.setattr(graphs, "sums_float16_in_float32", lambda: False)
    weights, x = np.full((16, 2048), 64, np.float16), np.full((rows, 2048), 8 + 2**-12, np.float32)
    with closing(Device(cpu_device(), 1)) as device, closing(Allocator(device)) as allocator, Graph(allocator) as graph:
        product = graph.linear(graph.input(weights), graph.input(x))
        graph.output(product)
        graph.compute()
        found = read(product, (rows, 16))
    # Widened weights leave the other factor its precision.
    np.testing.assert_allclose(found, 2048 * 64 * (8 + 2**-12), rtol=1e-6 if widened else 1e-4)


@pytest.mark.parametrize("rows", [1, 16, 64])
def test_attention_with_float16_keys_scores_in_float32(rows: int) -> None:
    """The sum of one lane is 16,384 or 16,392, which is 16,384 in float16: both keys would get the same weight."""
    width = 128
    q, k = np.full((1, rows, width), 32, np.float32), np.full((1, 2, width), 32, np.float16)
    k[0, 1, 0] = 32.25
    v = np.stack([np.zeros((1, width)), np.ones((1, width))], axis=1).astype(np.float16)
    wanted = 1 / (1 + np.exp(-32 * 0.25 / np.sqrt(width)))
    with closing(Device(cpu_device(), 1)) as device, closing(Allocator(device)) as allocator, Graph(allocator) as graph:
        mixed = graph.attention(graph.input(q), graph.input(k), graph.input(v))
        graph.output(mixed)
        graph.compute()
        found = read(mixed, (rows, width))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
