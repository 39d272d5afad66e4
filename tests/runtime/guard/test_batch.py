"""Batches: results in order, each sample exactly once, whatever is wrong with it."""

import dataclasses
import random
import threading
import time

import numpy as np
import pytest

from visionward import BatchResult, CancelToken, Conversation, Guard, GuardProcess, Progress, Sample
from visionward.errors import (
    ClassificationCancelledError,
    ComputeError,
    ContextLengthError,
    ConversationError,
    ImageError,
    PolicyError,
)

OPTIONS = {"n_ctx": 1024, "threads": 1}
RNG = np.random.default_rng(3)
PICTURES = [RNG.integers(0, 255, (70, 100, 3), np.uint8) for _ in range(3)]


@pytest.fixture(scope="module", params=[Guard, GuardProcess])
def guard(request, pair_of):
    pair = pair_of("plain", "f16")
    with request.param.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        yield guard


def untimed(verdict):
    return dataclasses.replace(verdict, timings_ms=None)


SAMPLES = [
    {"id": "picture", "image": PICTURES[0], "prompt": "Look"},
    {"id": "damaged", "image": b"no image", "prompt": "Look"},
    Sample.make("sample", Conversation.from_prompt("Words", image=PICTURES[1]), unsafe=None),
    {"prompt": "Words", "response": "More words"},
    {"prompt": "word " * 5000},
    {"id": 7, "conversation": [{"role": "assistant", "content": "x"}]},
    {"promt": "x"},
    "no sample",
    {"id": "last", "conversation": [{"role": "user", "content": "Words"}]},
]


def test_results_are_in_order_and_those_of_single_calls(guard):
    results = list(guard.classify_batch(SAMPLES, threshold=0.4))
    assert [result.id for result in results] == ["picture", "damaged", "sample", "4", "5", "7", "7", "8", "last"]
    assert all((result.verdict is None) != (result.error is None) for result in results)
    errors = [type(result.error) for result in results]
    none = type(None)
    assert errors == [
        none, ImageError, none, none, ContextLengthError, ConversationError, ConversationError, ConversationError, none,
    ]  # fmt: skip
    assert "unknown key 'promt'" in str(results[6].error)
    wanted = [
        guard.classify(image=PICTURES[0], prompt="Look", threshold=0.4),
        guard.classify(image=PICTURES[1], prompt="Words", threshold=0.4),
        guard.classify(prompt="Words", response="More words", threshold=0.4),
        guard.classify(prompt="Words", threshold=0.4),
    ]
    found = [untimed(result.verdict) for result in results if result.verdict is not None]
    assert found == [untimed(verdict) for verdict in wanted]


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_of_good_and_bad_samples(guard, seed):
    rng = random.Random(seed)
    kinds = [rng.choice(["good", "bad"]) for _ in range(rng.randint(0, 9))]
    samples = [
        {"id": f"{number} {kind}", "prompt": "Words" if kind == "good" else ""} for number, kind in enumerate(kinds)
    ]
    results = list(guard.classify_batch(iter(samples)))
    assert [result.id for result in results] == [sample["id"] for sample in samples]
    assert [("bad" if result.verdict is None else "good") for result in results] == kinds


def test_progress(guard):
    reports = []
    assert len(list(guard.classify_batch([{"prompt": "a"}, {"prompt": ""}], on_progress=reports.append))) == 2
    assert reports == [Progress("classifying", done, 2, "samples") for done in range(3)]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"threshold": 2}, PolicyError), ({"exclude": ["S99"]}, PolicyError), ({"frames": 0}, ValueError)],
)
def test_a_wrong_option_is_no_samples_fault(guard, options, error):
    with pytest.raises(error):
        next(guard.classify_batch([{"prompt": "a"}], **options))


def test_an_iterator_that_fails_ends_the_batch(guard):
    def samples():
        yield {"prompt": "a"}
        yield {"prompt": "b"}
        raise ZeroDivisionError

    results = []
    with pytest.raises(ZeroDivisionError):
        results.extend(guard.classify_batch(samples()))
    assert [result.id for result in results] == ["1"]


@pytest.mark.parametrize("seed", range(6))
def test_cancelled_at_a_random_time(guard, seed):
    rng, cancel = random.Random(seed), CancelToken()
    wanted = untimed(guard.classify(prompt="Words"))
    samples = [{"image": PICTURES[number % 3], "prompt": f"Look {number}"} for number in range(60)]
    threading.Timer(rng.uniform(0, 0.5), cancel.cancel).start()
    results = []
    with pytest.raises(ClassificationCancelledError):
        results.extend(guard.classify_batch(samples, cancel=cancel))
    assert [result.id for result in results] == [str(number + 1) for number in range(len(results))]
    assert all(isinstance(result, BatchResult) and result.verdict is not None for result in results)
    assert untimed(guard.classify(prompt="Words")) == wanted


def test_leaving_the_loop_ends_the_computation(guard):
    taken = []

    def samples():
        for number in range(100):
            taken.append(number)
            yield {"image": PICTURES[0], "prompt": f"Look {number}"}

    for _ in guard.classify_batch(samples()):
        break
    guard.classify(prompt="Words")
    assert len(taken) <= 2
    assert not any(thread.name.startswith("visionward-batch") for thread in threading.enumerate())


def test_a_closed_guard_is_an_error_for_each_sample(pair_of):
    pair = pair_of("plain", "f16")
    guard = Guard.load(pair.text, pair.mmproj, **OPTIONS)
    guard.close()
    results = list(guard.classify_batch([{"prompt": "a"}, {"prompt": "b"}]))
    assert [type(result.error) for result in results] == [ComputeError] * 2


def test_the_next_image_is_decoded_while_one_is_computed(pair_of, monkeypatch):
    pair = pair_of("plain", "f16")
    with Guard.load(pair.text, pair.mmproj, **OPTIONS) as guard:
        decode, run = guard.engine.pictures, guard.engine.run
        decoded, waited = threading.Semaphore(0), []

        def pictures(*arguments):
            decoded.release()
            return decode(*arguments)

        def run_after_two_were_decoded(job, cancel=None):
            def late():
                if not waited:
                    waited.extend(decoded.acquire(timeout=30) for _ in range(2))
                    time.sleep(3)
                return job()

            return run(late, cancel)

        monkeypatch.setattr(guard.engine, "pictures", pictures)
        monkeypatch.setattr(guard.engine, "run", run_after_two_were_decoded)
        results = list(guard.classify_batch([{"image": picture, "prompt": "Look"} for picture in PICTURES]))
    assert waited == [True, True]
    # The wait for the sample before is not part of a verdict's time.
    assert all(result.verdict.timings_ms.total < 3000 for result in results)
