"""Cancelled at any time, a classification gives no verdict, and the next one is the same to the bit."""

import dataclasses
import inspect
import random
import threading
import time
from typing import get_type_hints

import numpy as np
import pytest

from visionward import CancelToken, Engine, EngineOptions, Guard, GuardProcess
from visionward.errors import ClassificationCancelledError
from visionward.runtime.engine_options import EngineKeywords

PICTURE = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
IMAGE = {"image": PICTURE, "prompt": "What is shown here?"}
TEXT = {"prompt": "What is shown here? " * 10, "category_scores": True}


@pytest.fixture(scope="module", params=["ggml", "onnx", "process"])
def guard(request, pair_of, tower_of):
    pair = pair_of("plain", "f16")
    options = {"n_ctx": 1024, "threads": 1, "image_cache_bytes": 0}
    if request.param == "onnx":
        pair = pair_of("plain", "f32")
        options |= {"vision_backend": "onnx", "onnx_tower": tower_of("plain", "f32")}
    kind = GuardProcess if request.param == "process" else Guard
    with kind.load(pair.text, pair.mmproj, **options) as guard:
        yield guard


def untimed(verdict):
    return dataclasses.replace(verdict, timings_ms=None)


def time_of(guard, judged):
    started = time.perf_counter()
    guard.classify(**judged)
    return time.perf_counter() - started


def cancelled_or_judged(guard, judged, cancel):
    try:
        return untimed(guard.classify(**judged, cancel=cancel))
    except ClassificationCancelledError:
        return None


def check_random_times(guard, judged, seed, times):
    rng = random.Random(seed)
    wanted = untimed(guard.classify(**judged))
    took = time_of(guard, judged)
    cancelled = 0
    for _ in range(times):
        cancel = CancelToken()
        timer = threading.Timer(rng.uniform(0, took), cancel.cancel)
        timer.start()
        found = cancelled_or_judged(guard, judged, cancel)
        timer.cancel()
        # A verdict comes only if the token was not cancelled before; then it is the right one.
        assert found in (None, wanted)
        cancelled += found is None
        assert untimed(guard.classify(**judged)) == wanted
    assert cancelled > 0


@pytest.mark.parametrize("judged", [IMAGE, TEXT], ids=["image", "text"])
def test_at_random_times_while_it_runs(guard, judged):
    check_random_times(guard, judged, 1, 6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
@pytest.mark.parametrize("judged", [IMAGE, TEXT], ids=["image", "text"])
def test_at_many_random_times(guard, judged, seed):
    check_random_times(guard, judged, seed, 40)


@pytest.mark.parametrize("judged", [IMAGE, TEXT], ids=["image", "text"])
def test_at_every_report_of_progress(guard, judged):
    """In each layer of the tower and after each ubatch, the last one included."""
    reports = []
    wanted = untimed(guard.classify(**judged, on_progress=reports.append))
    for number in range(len(reports)):
        cancel, left = CancelToken(), [number]

        def report(_progress, cancel=cancel, left=left):
            if not left[0]:
                cancel.cancel()
            left[0] -= 1

        with pytest.raises(ClassificationCancelledError):
            guard.classify(**judged, on_progress=report, cancel=cancel)
    assert untimed(guard.classify(**judged)) == wanted


def test_before_the_start(guard):
    cancel, reports = CancelToken(), []
    cancel.cancel()
    assert cancel.cancelled
    for _ in range(2):
        with pytest.raises(ClassificationCancelledError):
            guard.classify(**IMAGE, cancel=cancel, on_progress=reports.append)
    assert reports == []


def test_after_the_end(guard):
    cancel = CancelToken()
    verdict = guard.classify(**IMAGE, cancel=cancel)
    cancel.cancel()
    assert untimed(guard.classify(**IMAGE)) == untimed(verdict)


@pytest.mark.parametrize("seed", range(3))
def test_while_it_waits_behind_another_call(guard, seed):
    """The waiting call ends at once, and the running one is not disturbed."""
    rng, started, go, outcome = random.Random(seed), threading.Event(), threading.Event(), []
    wanted = untimed(guard.classify(**IMAGE))

    def hold(_progress):
        started.set()
        assert go.wait(60)

    running = threading.Thread(target=lambda: outcome.append(guard.classify(**IMAGE, on_progress=hold)))
    running.start()
    assert started.wait(60)
    cancel = CancelToken()
    threading.Timer(rng.uniform(0, 0.3), cancel.cancel).start()
    with pytest.raises(ClassificationCancelledError):
        guard.classify(**TEXT, cancel=cancel)
    assert running.is_alive()
    go.set()
    running.join()
    assert [untimed(verdict) for verdict in outcome] == [wanted]
    assert untimed(guard.classify(**IMAGE)) == wanted


class StopError(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("judged", [IMAGE, TEXT], ids=["image", "text"])
def test_what_the_callback_raises_ends_the_call(guard, judged):
    wanted, error = untimed(guard.classify(**judged)), StopError("that is enough")

    def report(progress):
        if progress.done == progress.total:
            raise error

    with pytest.raises(StopError) as raised:
        guard.classify(**judged, on_progress=report)
    assert raised.value is error
    assert untimed(guard.classify(**judged)) == wanted


def test_progress_reaches_the_end_of_each_stage(guard):
    reports = []
    guard.classify(**IMAGE, on_progress=reports.append)
    stages = {report.stage: report for report in reports}
    assert {(report.stage, report.unit) for report in reports} == {("vision", "layers"), ("prompt", "tokens")}
    assert all(report.done == report.total > 0 for report in stages.values())
    for stage in stages:
        done = [report.done for report in reports if report.stage == stage]
        assert done == sorted(done)


def test_one_token_ends_several_calls(guard):
    cancel, ended = CancelToken(), []

    def classify():
        with pytest.raises(ClassificationCancelledError):
            guard.classify(**IMAGE, cancel=cancel, on_progress=lambda _: cancel.cancel())
        ended.append(True)

    threads = [threading.Thread(target=classify) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 4
    guard.classify(**TEXT)


def test_the_keywords_are_the_options():
    options = {field.name: field.type for field in dataclasses.fields(EngineOptions)}
    assert get_type_hints(EngineKeywords) == get_type_hints(EngineOptions)
    assert list(EngineKeywords.__annotations__) == list(options)
    for function in (Engine.__init__, Guard.load, Guard.demo, GuardProcess.load, GuardProcess.demo):
        (keywords,) = [
            one for one in inspect.signature(function).parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD
        ]
        assert "Unpack[EngineKeywords]" in str(keywords.annotation)
