"""The demo guard with its tower in ONNX, against what Transformers 4.53.3 said of the held-out set."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED, samples
from visionward import Guard, Verdict
from visionward.convert.demo_guard import demo_pair
from visionward.convert.onnx_file import export_tower
from visionward.demonstration import demo_samples_path
from visionward.runtime.guard.samples import read_samples

ROWS = json.loads((Path(__file__).parent / "fixtures" / "demo_held_out.json").read_text(encoding="utf-8"))["samples"]
# How far the mean score may be off. Measured: 3e-6, 1.2e-5, 1.4e-5 (in bfloat16), 1.4e-5.
VARIANTS = {
    ("onnx", "f16"): 5e-5,
    ("onnx", "int8"): 2e-4,
    ("openvino", "f16"): 2e-4,
    ("openvino", "int8"): 2e-4,
}
IDS = ["-".join(variant) for variant in VARIANTS]


@pytest.fixture(scope="module")
def guard_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Guard]]:
    folder = tmp_path_factory.mktemp("demo-towers")
    pair = demo_pair()
    guards: dict[tuple[str, str], Guard] = {}

    def load(backend: str, weight_type: str = "") -> Guard:
        key = (backend, weight_type)
        if key not in guards:
            tower = folder / f"vision-demo-{weight_type}.onnx"
            if weight_type and not tower.exists():
                export_tower(pair.mmproj, tower, weight_type=weight_type)
            named = {"onnx_tower": tower} if weight_type else {}
            guards[key] = Guard.load(pair.text, pair.mmproj, vision_backend=backend, **named)
        return guards[key]

    yield load
    for guard in guards.values():
        guard.close()


def judge(guard: Guard, count: int) -> list[Verdict]:
    verdicts = []
    for sample in samples(count, HELD_OUT_SEED):
        messages = sample.messages
        messages[0]["content"][0] = {"type": "image", "image": sample.image}
        verdicts.append(guard.classify(messages))
    return verdicts


def codes(verdict: Verdict) -> list[str]:
    return [category.code for category in verdict.categories]


@pytest.fixture(scope="module")
def of_ggml(guard_of) -> list[Verdict]:
    """What ggml says of the first samples."""
    return judge(guard_of("ggml"), 8)


@pytest.mark.parametrize(("backend", "weight_type"), VARIANTS, ids=IDS)
def test_the_same_verdicts_as_ggml(guard_of, of_ggml: list[Verdict], backend: str, weight_type: str) -> None:
    found = judge(guard_of(backend, weight_type), len(of_ggml))
    assert {verdict.vision_backend for verdict in found} == {backend}
    assert {verdict.vision_backend for verdict in of_ggml} == {"ggml"}
    assert {verdict.verdict for verdict in found} == {"safe", "unsafe"}
    assert [verdict.verdict for verdict in found] == [verdict.verdict for verdict in of_ggml]
    assert [codes(verdict) for verdict in found] == [codes(verdict) for verdict in of_ggml]


@pytest.mark.parametrize(("backend", "weight_type"), VARIANTS, ids=IDS)
def test_the_packaged_samples_are_judged_as_they_should(guard_of, backend: str, weight_type: str) -> None:
    for sample in read_samples(demo_samples_path()):
        verdict = guard_of(backend, weight_type).classify(sample.conversation)
        assert sample.matches(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "weight_type"), VARIANTS, ids=IDS)
def test_the_held_out_set(guard_of, backend: str, weight_type: str) -> None:
    verdicts = judge(guard_of(backend, weight_type), HELD_OUT_COUNT)
    pairs = list(zip(verdicts, ROWS, strict=True))
    assert sum(verdict.verdict == row["verdict"] for verdict, row in pairs) >= 0.995 * HELD_OUT_COUNT
    assert sum(codes(verdict) == row["categories"] for verdict, row in pairs) >= 0.99 * HELD_OUT_COUNT
    errors = [abs(verdict.score - row["score"]) for verdict, row in pairs]
    assert sum(errors) / len(errors) < VARIANTS[backend, weight_type]
