"""The GPU path on Vulkan, with kernels other than the CPU's, against Transformers 4.53.3.

Run with ``pytest -m vulkan``; tests/support/vulkan_backend.py builds what it needs. The registered device stays for the
process, so these tests run apart from all others.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import vulkan_backend
from image_variants import CASES

from visionward import Engine, Guard
from visionward.demonstration import demo_samples_path
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.device_list import find_device
from visionward.runtime.ggml.graph import Allocator, Graph, read
from visionward.runtime.guard.samples import read_samples
from visionward.runtime.images.preprocess import Tiles

pytestmark = pytest.mark.vulkan

FIXTURE = np.load(Path(__file__).parents[2] / "reference" / "image_logits.npz")


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    vulkan_backend.register()


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def on(name: str, build: Callable[[Graph], int], shape: tuple[int, ...]) -> np.ndarray:
    device = Device(find_device(name), 1)
    with closing(device), closing(Allocator(device)) as allocator, Graph(allocator, exact=True) as graph:
        result = build(graph)
        graph.output(result)
        graph.compute()
        return read(result, shape)


def test_attention_has_float32_rows() -> None:
    """The backend converts rows that are not contiguous to float16, those of llama.cpp's attention too."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((rows, 4, 64)).astype(np.float32) * 4 for rows in (40, 50, 50))

    def attention(graph: Graph) -> int:
        by_head = [graph.by_head(graph.input(x)) for x in (q, k, v)]
        return graph.attention(by_head[0], *map(graph.attention_input, by_head[1:]))

    scores = np.einsum("qhd,khd->hqk", q.astype(np.float64), k) / 8
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(40, 256)
    assert error(on("CPU", attention, (40, 256)), expected) < 1e-5
    assert error(on("Vulkan0", attention, (40, 256)), expected) < 1e-5

    def permuted(graph: Graph) -> int:
        return int(ggml.mul_mat(graph.context, graph.input(k.transpose(1, 0, 2)), graph.by_head(graph.input(q))))

    # What ggml does by itself, and llama.cpp's logits in float32 are off by for it. If this fails, ggml was mended.
    of_ggml = error(on("Vulkan0", permuted, scores.shape) / 8, scores)
    assert 1e-4 < of_ggml < 5e-4


@pytest.mark.parametrize(
    ("kind", "exact", "of_features", "of_logits"),
    [("f32", True, 5e-6, 1e-3), ("f32", False, 2e-4, 1e-3), ("f16", False, 1e-3, 3e-3)],
)
def test_features_and_logits(pair_of, kind: str, exact: bool, of_features: float, of_logits: float) -> None:
    """The worst of all cases of one checkpoint. Bounds are this backend's: the CPU's are in test_parity.py."""
    pair = pair_of("plain", kind)
    worst = [0.0, 0.0]
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, exact=exact)) as engine:
        assert engine.device_name == "Vulkan0"
        for case in CASES:
            if case.checkpoint != "plain":
                continue
            found = engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio))
            worst[0] = max(worst[0], error(found.features, FIXTURE[f"{case.name}.features"]))
            worst[1] = max(worst[1], error(found.logits, FIXTURE[f"{case.name}.logits"]))
    assert worst[0] <= of_features, worst
    assert worst[1] <= of_logits, worst


def test_the_demonstration_guard() -> None:
    samples = read_samples(demo_samples_path())
    with Guard.demo() as guard:
        verdicts = [guard.classify(sample.conversation) for sample in samples]
    assert all(sample.matches(verdict) for sample, verdict in zip(samples, verdicts, strict=True))
    assert {verdict.devices.text for verdict in verdicts} == {"Vulkan0"}
