"""SIGINT at random moments of a classification: never a verdict, always a clean interruption, and it works again."""

import json
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from visionward.convert import convert_checkpoint
from visionward.runtime.vision import onnxruntime_session, openvino_session
from visionward.runtime.vision.vision_backend import Chosen

SCRIPT = """
import json, os, random, signal, sys, threading, time
import numpy as np
from visionward import Engine, Guard

text, mmproj, runs, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
options = json.loads(sys.argv[5])
guard = Guard(Engine(text, mmproj, n_ctx=1024, threads=1, **options))
image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
fields = ("verdict", "score", "answer_mass", "categories", "category_scores", "tokens", "vision_backend")


def classify():
    verdict = guard.classify(image=image, prompt="What is shown here?")
    return [getattr(verdict, field) for field in fields]


wanted = classify()
started = time.perf_counter()
assert classify() == wanted
took = time.perf_counter() - started
count = {"interrupted": 0, "verdicts": 0, "wrong": 0}
run = 0
while run < runs:
    try:
        run += 1
        threading.Timer(rng.uniform(0, 1.1 * took), os.kill, (os.getpid(), signal.SIGINT)).start()
        found = classify()
        count["verdicts"] += 1
        count["wrong"] += found != wanted
        time.sleep(10)  # the interrupt is still to come
    except KeyboardInterrupt:
        count["interrupted"] += 1
count["works again"] = classify() == wanted
count["backend"] = wanted[-1]
print(json.dumps(count))
"""


def interrupt(pair, runs: int, seed: int, **options: object) -> dict[str, object]:
    arguments = (pair.text, pair.mmproj, runs, seed, json.dumps(options))
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(count: dict[str, object], runs: int) -> None:
    assert count["interrupted"] == runs
    assert count["wrong"] == 0
    assert count["works again"] is True


def test_interrupts_at_random_moments(pair_of) -> None:
    check(interrupt(pair_of("plain", "f16"), 40, seed=1), 40)


@pytest.mark.slow
def test_many_interrupts(pair_of) -> None:
    check(interrupt(pair_of("plain", "f16"), 1000, seed=2), 1000)


@pytest.fixture(scope="module")
def slow_tower(tmp_path_factory):
    """A pair whose tower takes most of the time, with an ONNX tower."""
    folder = tmp_path_factory.mktemp("slow-tower")
    checkpoint = write_tiny_checkpoint(folder / "slow", vision_width=256, local_layers=6, tile_size=224)
    return convert_checkpoint(checkpoint, folder, onnx_type="f32")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_interrupts_while_another_engine_encodes(slow_tower, backend: str) -> None:
    count = interrupt(slow_tower, 8, seed=3, image_cache_bytes=0, vision_backend=backend)
    check(count, 8)
    assert count["backend"] == backend


class Stop(BaseException):
    """What ends a computation in the test below."""


def stop() -> None:
    raise Stop


def fastest(work, times: int) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


@pytest.mark.parametrize(("backend", "module"), [("onnx", onnxruntime_session), ("openvino", openvino_session)])
def test_an_interrupt_ends_the_computation(slow_tower, monkeypatch, backend: str, module) -> None:
    """It does not wait for the end, and the next one gives the same bits."""
    monkeypatch.setattr(module, "POLL_S", 0.01)
    pixels = np.random.default_rng(1).standard_normal((4, 3, 224, 224)).astype(np.float32)
    with closing(Chosen(backend, slow_tower.onnx_tower, "f32").session(1)) as session:

        def run(check_cancelled) -> np.ndarray:
            return session.run(pixels, 6, check_cancelled)

        def stopped() -> None:
            with pytest.raises(Stop):
                run(stop)

        wanted = run(lambda: None)
        whole = fastest(lambda: run(lambda: None), 2)
        assert fastest(stopped, 3) < 0.4 * whole
        assert np.array_equal(run(lambda: None), wanted)
