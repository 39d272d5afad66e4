"""The GPU path on ggml's RPC backend, whose kernels are the CPU's: what differs by one bit was computed differently.

Run with ``pytest -m rpc``; tests/support/rpc_backend.py builds what it needs. Registered devices stay for the process,
so these tests run apart from all others.
"""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rpc_backend
from image_variants import CASES, ImageCase
from PIL import Image
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine, Guard
from visionward.convert import convert_checkpoint
from visionward.demonstration import demo_samples_path
from visionward.errors import ComputeError, NativeLibraryError
from visionward.quant.activations import compute_importance
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.kernel_probe import MAX_ERROR
from visionward.runtime.ggml.kernel_product import WEIGHT_TYPES, products
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample, read_samples
from visionward.runtime.image_cache import CacheStatistics
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision.tower_plan import TowerPlan

pytestmark = pytest.mark.rpc

CASE = next(case for case in CASES if case.text_before == 15)
# How the parts can be divided among two servers and the CPU, and what the engine must say about it.
PLACES = {
    "all on one": ({}, "RPC0"),
    "two layers": ({"gpu_layers": 2}, "RPC0 (2 of 5 layers)"),
    "the head alone": ({"gpu_layers": 1}, "RPC0 (1 of 5 layers)"),
    "the tower alone": ({"device": "CPU", "vision_device": "RPC0"}, "CPU, vision on RPC0"),
    "all but the tower": ({"device": "RPC0", "vision_device": "CPU"}, "RPC0, vision on CPU"),
    "decoder divided": ({"device": "RPC0,RPC1"}, "RPC0,RPC1"),
    "tower elsewhere": ({"device": "RPC1", "vision_device": "rpc0"}, "RPC1, vision on RPC0"),
    "nothing": ({"gpu_layers": 0}, "CPU"),
}
# Tests that say nothing about a device, and must pass on any.
ON_ANY_DEVICE = ("test_interrupt.py", "test_image_cache.py", "test_parity.py", "decoder", "ggml", "vision")


@pytest.fixture(scope="module", autouse=True)
def servers():
    with rpc_backend.serving(2) as names:
        assert names == ["RPC0", "RPC1"]
        yield


def computed(pair_of, case: ImageCase, kind: str, **options: object) -> tuple[np.ndarray, np.ndarray, str]:
    pair = pair_of(case.checkpoint, kind)
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1, **options)) as engine:
        result = engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio))
        return result.features, result.logits, engine.device_name


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_exact_results_are_those_of_the_cpu(pair_of, place: str, kind: str) -> None:
    options, names = PLACES[place]
    features, logits, used = computed(pair_of, CASE, kind, exact=True, **options)
    assert used == names
    of_cpu = computed(pair_of, CASE, kind, exact=True, gpu_layers=0)
    np.testing.assert_array_equal(features, of_cpu[0])
    np.testing.assert_array_equal(logits, of_cpu[1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_default_features_are_those_of_the_cpu(pair_of, monkeypatch, case: ImageCase) -> None:
    """With attention as it is on GPUs: by two products instead of the CPU's kernel."""
    found = computed(pair_of, case, "f16")[0]
    monkeypatch.setattr(Device, "is_cpu", property(lambda _: False, lambda *_: None), raising=False)
    np.testing.assert_array_equal(found, computed(pair_of, case, "f16", gpu_layers=0)[0])


@pytest.mark.parametrize("head", [64, 80, 128])
def test_head_widths_that_flash_attention_knows(tmp_path: Path, monkeypatch, head: int) -> None:
    """The real ones are 80 in the tower and 128 in the decoder."""
    widths = {"text_width": 4 * head, "vision_width": 2 * head}
    checkpoint = write_tiny_checkpoint(tmp_path / "heads", seed=head, **widths)
    pair = convert_checkpoint(checkpoint, tmp_path, text_type="f32", mmproj_type="f32")

    def results(**options: object) -> tuple[np.ndarray, np.ndarray]:
        with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1, **options)) as engine:
            result = engine.logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio))
        return result.features, result.logits

    of_cpu, found = results(exact=True, gpu_layers=0), results(exact=True)
    np.testing.assert_array_equal(found[0], of_cpu[0])
    np.testing.assert_array_equal(found[1], of_cpu[1])
    # With llama.cpp's flash attention there, and without it on the CPU.
    default = results()
    assert np.linalg.norm(default[1] - of_cpu[1]) / np.linalg.norm(of_cpu[1]) < 2e-3
    monkeypatch.setattr(Device, "is_cpu", property(lambda _: False, lambda *_: None), raising=False)
    np.testing.assert_array_equal(default[0], results(gpu_layers=0)[0])


@pytest.mark.parametrize("options", [{}, {"gpu_layers": 3}, {"device": "RPC0,RPC1", "vision_device": "RPC1"}])
def test_the_demonstration_guard(options: dict[str, object]) -> None:
    samples = read_samples(demo_samples_path())
    with Guard.demo(threads=1, **options) as guard:
        verdicts = [guard.classify(sample.conversation) for sample in samples]
    assert all(sample.matches(verdict) for sample, verdict in zip(samples, verdicts, strict=True))
    assert {verdict.devices.text for verdict in verdicts} == {options.get("device", "RPC0")}


def without(monkeypatch, operation: bytes) -> None:
    """As a device that does not support an operation."""
    supports = ggml.backend_supports_op
    monkeypatch.setattr(
        ggml, "backend_supports_op", lambda *node: ggml.op_desc(node[1]) != operation and supports(*node)
    )


def test_a_device_without_an_operation_gives_way_to_the_cpu(pair_of, monkeypatch) -> None:
    expected = computed(pair_of, CASE, "f32", gpu_layers=0)
    without(monkeypatch, b"GELU_ERF")
    pair = pair_of(CASE.checkpoint, "f32")
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1)) as engine:
        assert engine.warnings == ("RPC0 does not support GELU_ERF: everything was computed on the CPU.",)
        result = engine.logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio))
    np.testing.assert_array_equal(result.logits, expected[1])


@pytest.mark.parametrize("operation", [b"GELU_ERF", b"SOFT_MAX", b"SWIGLU", b"MUL_MAT"])
def test_a_device_that_was_named_and_lacks_an_operation(pair_of, monkeypatch, operation: bytes) -> None:
    without(monkeypatch, operation)
    with pytest.raises(NativeLibraryError, match=f"RPC1 does not support {operation.decode()}: use another device"):
        computed(pair_of, CASE, "f32", device="RPC1")


def test_numbers_that_are_not_finite_name_the_device(pair_of) -> None:
    pair = pair_of(CASE.checkpoint, "f32")
    broken = Tiles(np.full_like(CASE.pixels(), 3e38), CASE.aspect_ratio)
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1)) as engine:
        with pytest.raises(ComputeError, match="overflow on RPC0: the vision features are not all finite"):
            engine.logits(CASE.tokens(), broken)
        engine.logits(CASE.tokens(), Tiles(CASE.pixels(), CASE.aspect_ratio))


@pytest.mark.parametrize("case", [case for case in CASES if case.text_before == 15 or case.aspect_ratio == (1, 1)][:3])
def test_only_pixels_and_a_few_rows_cross(pair_of, monkeypatch, case: ImageCase) -> None:
    """The second image of a canvas: its patches and a few rows go there, one number and the logits come back."""
    pair = pair_of(case.checkpoint, "f32")
    tiles = Tiles(case.pixels(), case.aspect_ratio)
    sent, read, computed_graphs = [], [], []
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1, image_cache_bytes=0)) as engine:
        first = engine.logits(case.tokens(), tiles).logits
        for name, sizes in (("backend_tensor_set", sent), ("backend_tensor_get", read)):
            move = getattr(ggml, name)
            monkeypatch.setattr(
                ggml, name, lambda *where, move=move, sizes=sizes: (sizes.append(where[3]), move(*where))[1]
            )
        compute = ggml.backend_graph_compute
        monkeypatch.setattr(
            ggml, "backend_graph_compute", lambda *graph: (computed_graphs.append(1), compute(*graph))[1]
        )

        def job() -> np.ndarray:
            with engine.evaluate(tiles) as evaluation:
                return evaluation.prefill(case.tokens(), every_position=True)

        np.testing.assert_array_equal(engine.run(job), first)
        vision, cross = engine.config.vision, engine.config.cross_attention
    plan = TowerPlan.of(vision, tiles, collapse=True)
    rows = plan.zero_tokens + plan.embedded_tiles + vision.max_tiles
    bias = plan.tokens if plan.key_bias() is not None else 0
    assert sum(sent) == plan.patches(tiles.pixel_values).nbytes + 4 * (rows * vision.width + bias)
    assert read == [4]
    # Embedding, layers, projection, the check; keys and values, and the layers themselves.
    assert len(computed_graphs) == 3 + vision.layers + 1 + len(cross.layers)


def test_embeddings_are_kept_for_the_last_canvases(pair_of, monkeypatch) -> None:
    cases = {case.aspect_ratio: case for case in CASES if case.checkpoint == "plain"}
    pair = pair_of("plain", "f32")
    made = []
    embedding = TowerPlan.embedding
    monkeypatch.setattr(TowerPlan, "embedding", lambda *given: (made.append(given[0]), embedding(*given))[1])
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, threads=1)) as engine:
        shown = [Tiles(case.pixels(), ratio) for ratio, case in cases.items()]
        assert len(shown) > 4
        features = [engine.encode_image(tiles) for tiles in shown]
        made.clear()
        for tiles, expected in list(zip(shown, features, strict=True))[-4:]:
            np.testing.assert_array_equal(engine.encode_image(tiles), expected)
        assert made == []
        np.testing.assert_array_equal(engine.encode_image(shown[0]), features[0])
        assert len(made) == 1


@pytest.mark.parametrize("options", [{}, {"gpu_layers": 2}, {"device": "CPU", "vision_device": "RPC1"}])
def test_an_importance_matrix_is_that_of_the_cpu(pair_of, tmp_path: Path, options: dict[str, object]) -> None:
    pair = pair_of("plain", "f32")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (60, 100, 3), np.uint8)).save(picture)
    samples = [Sample.make("one", Conversation.from_prompt("How?", image=picture), unsafe=True)]

    def importance(**options: object) -> dict[str, np.ndarray]:
        with closing(Engine(pair.text, pair.mmproj, n_ctx=512, threads=1, exact=True, **options)) as engine:
            found = compute_importance(engine, samples)
        return {name: statistics.sums for name, statistics in found.statistics.items()}

    of_cpu, found = importance(gpu_layers=0), importance(**options)
    assert found.keys() == of_cpu.keys()
    for name, sums in found.items():
        np.testing.assert_array_equal(sums, of_cpu[name])


def test_kernels_are_probed_by_the_name_of_the_device() -> None:
    found = list(products("RPC0", 1))
    assert [product.weight_type for product in found] == [dtype.name for dtype in WEIGHT_TYPES]
    assert all(0 < product.error < MAX_ERROR and product.gflops is None for product in found)


def test_loading_warms_up(pair_of) -> None:
    """The graphs of the first image are computed while loading, which says so."""
    pair = pair_of(CASE.checkpoint, "f32")
    stages = []
    with closing(Engine(pair.text, pair.mmproj, n_ctx=256, on_progress=lambda at: stages.append(at.stage))) as engine:
        assert "warming up" in stages
        assert engine.image_cache == CacheStatistics(0, 0, 0, 0, engine.options.image_cache_bytes)
    stages.clear()
    Engine(pair.text, pair.mmproj, n_ctx=256, gpu_layers=0, on_progress=lambda at: stages.append(at.stage)).close()
    assert "warming up" not in stages


@pytest.mark.parametrize("name", ON_ANY_DEVICE)
def test_other_tests_pass_there(name: str) -> None:
    tests = Path(__file__).parents[1]
    pytest_here = (sys.executable, "-m", "pytest", "-q", "-p", "rpc_backend", str(tests / name))
    result = subprocess.run(pytest_here, check=False, cwd=tests.parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
