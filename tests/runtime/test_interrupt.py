"""SIGINT at random moments of a classification: never a verdict, always a clean interruption, and it works again."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, random, signal, sys, threading, time
import numpy as np
from visionward import Guard

text, mmproj, runs, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
guard = Guard.load(text, mmproj, n_ctx=1024, threads=1)
image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
fields = ("verdict", "score", "answer_mass", "categories", "category_scores", "tokens")


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
print(json.dumps(count))
"""


def interrupt(pair, runs: int, seed: int) -> dict[str, object]:
    command = [sys.executable, "-c", SCRIPT, str(pair.text), str(pair.mmproj), str(runs), str(seed)]
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
