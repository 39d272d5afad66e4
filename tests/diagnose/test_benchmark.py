"""The benchmark's arithmetic and order of work, on a guard whose times are known."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from fake_guard import SAFE, UNSAFE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visionward.diagnose import benchmark
from visionward.diagnose.benchmark import DECODED_TOKENS, BenchmarkPlan, Spread, measure, synthetic_picture
from visionward.errors import ComputeError, ImageError
from visionward.progress import Progress
from visionward.runtime.guard.verdict import Timings
from visionward.runtime.images.preprocess import choose_canvas

TIMES = st.floats(0, 1e9)
IMAGE = b"an image"


class KnownGuard:
    """Takes as long as it is told, by a clock of its own, and notes what it was asked."""

    device = "CPU"
    threads = 3
    kernels = "plain"

    def __init__(self, clock, log, *, verdict=SAFE, remembers=True, load_s=2.0, fails=None):
        log.append("load")
        clock.now += load_s
        self.log, self.verdict, self.remembers, self.fails = log, verdict, remembers, fails
        self.looks = 0

    def classify_new(self, image, prompt, _on_progress):
        assert (image, prompt) == (IMAGE, "hello")
        self.log.append("first")
        if self.fails is not None:
            raise self.fails
        self.looks += 1
        looks = self.looks
        # preprocess, vision, prefill, decode: 1, 10, 100, 0 milliseconds times the number of the look
        return replace(self.verdict, timings_ms=Timings(0, looks, 10 * looks, 100 * looks, 0, 111 * looks))

    def classify_again(self, image, prompt, _on_progress):
        assert (image, prompt) == (IMAGE, "hello")
        self.log.append("second")
        self.looks += 1
        return replace(self.verdict, timings_ms=Timings(0, 1, 0, 4, 0, 5 * self.looks)) if self.remembers else None

    def token_times(self, image, prompt, count):
        assert (image, prompt) == (IMAGE, "hello")
        self.log.append("tokens")
        return [float(token + 1) for token in range(count)]

    def close(self):
        self.log.append("close")


def test_progress_names_the_run():
    seen = []

    class Guard(KnownGuard):
        def classify_new(self, image, prompt, on_progress):
            on_progress(Progress("vision", 3, 32, "layers"))
            return super().classify_new(image, prompt, on_progress)

    plan = BenchmarkPlan(IMAGE, "hello", runs=2, warmup=0)
    measure(lambda _: Guard(Clock(), []), plan, seen.append)
    assert [(progress.stage, progress.done, progress.total) for progress in seen[2:6]] == [
        ("run 1 of 2", 0, 2),
        ("run 1 of 2, vision", 3, 32),
        ("run 2 of 2", 1, 2),
        ("run 2 of 2, vision", 3, 32),
    ]
    assert [progress.stage for progress in seen if progress.unit == "runs"] == [
        *("load 1 of 2", "load 2 of 2", "run 1 of 2", "run 2 of 2", "repeat 1 of 2", "repeat 2 of 2", "decode 1 of 1"),
    ]


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def bench(monkeypatch):
    """``bench(plan, **options of KnownGuard)``: what was measured, and what was asked for in order."""
    clock = Clock()
    monkeypatch.setattr(benchmark, "time", clock)

    def run(plan, **options):
        log = []
        return lambda: measure(lambda _: KnownGuard(clock, log, **options), plan), log

    return run


def plan(**options):
    return BenchmarkPlan(IMAGE, "hello", **options)


def test_every_row(bench):
    run, log = bench(plan(runs=4, warmup=2))
    measured = run()
    rows = {row: spread.values for row, spread in measured.times_ms.items()}
    assert rows == {
        "load": (2000, 2000, 2000),
        "preprocess": (3, 4, 5, 6),  # the two looks of the warm-up do not count
        "vision": (30, 40, 50, 60),
        "prefill": (300, 400, 500, 600),
        "decode": (0, 0, 0, 0),
        "total": (333, 444, 555, 666),
        "repeat_total": (35, 40, 45, 50),
        "decode_token": tuple(range(1, DECODED_TOKENS + 1)),
    }
    assert list(rows)[:6] == ["load", "preprocess", "vision", "prefill", "decode", "total"]
    assert log == ["load", "close"] * 2 + ["load"] + ["first"] * 6 + ["second"] * 4 + ["tokens", "close"]
    assert (measured.device, measured.threads, measured.kernels) == ("CPU", 3, "plain")


def test_rates_come_from_the_medians(bench):
    run, _ = bench(plan(runs=3, warmup=0), verdict=replace(SAFE, tiles=4))
    rates = run().rates
    # medians: 20 ms for 4 tiles, 200 ms for 200 tokens, 8.5 ms for a token
    assert rates == pytest.approx(
        {"vision_tiles_per_s": 200, "prefill_tokens_per_s": 1000, "decode_tokens_per_s": 1000 / 8.5}
    )


def test_a_rate_without_time_is_left_out():
    none = Spread.of([0.0])
    rows = dict.fromkeys(("vision", "prefill", "decode_token"), none)
    measured = benchmark.Measurement(rows, None, UNSAFE, "CPU", 1, "plain")
    assert measured.rates == {}


@pytest.mark.parametrize(("runs", "load_s", "loads"), [(1, 2, 1), (2, 2, 2), (9, 2, 3), (9, 25, 1), (9, 12, 2)])
def test_loading_is_not_measured_for_ever(bench, runs, load_s, loads):
    run, log = bench(plan(runs=runs), load_s=load_s)
    assert len(run().times_ms["load"].values) == loads == log.count("load") == log.count("close")


def test_an_image_that_is_not_remembered(bench):
    run, log = bench(plan(runs=3), remembers=False)
    assert "repeat_total" not in run().times_ms
    assert log.count("second") == 1


@pytest.mark.parametrize("error", [ImageError("cut short"), KeyboardInterrupt()])
def test_the_guard_is_closed_when_it_fails(bench, error):
    run, log = bench(plan(runs=1), fails=error)
    with pytest.raises(type(error)):
        run()
    assert log == ["load", "first", "close"]


@pytest.mark.parametrize(("runs", "warmup"), [(0, 1), (-1, 1), (1, -1)])
def test_nothing_to_measure(bench, runs, warmup):
    run, log = bench(plan(runs=runs, warmup=warmup))
    with pytest.raises(ValueError, match="expected at least 1 after 0 or more"):
        run()
    assert log == []


@given(st.lists(TIMES, min_size=2, max_size=50))
def test_spread_is_what_the_standard_library_says(values):
    spread = Spread.of(values)
    assert spread.min == min(values)
    assert spread.median == pytest.approx(statistics.median(values))
    # Twentieths with the ends included: the nineteenth is the 95th percentile, interpolated linearly.
    assert spread.p95 == pytest.approx(statistics.quantiles(values, n=20, method="inclusive")[18], rel=1e-9, abs=1e-300)
    assert spread.values == tuple(values)


@given(st.lists(TIMES, min_size=1, max_size=50))
def test_spread_is_ordered(values):
    spread = Spread.of(values)
    assert spread.min <= spread.median <= spread.p95 * (1 + 1e-12)
    assert spread.p95 <= max(values) * (1 + 1e-12)
    assert Spread.of(sorted(values)).median == spread.median


@pytest.mark.parametrize("values", [[], [1.0, -0.5], [math.nan], [1.0, math.inf]])
def test_what_are_no_times(values):
    with pytest.raises(ComputeError, match="invalid times"):
        Spread.of(values)


def test_the_synthetic_picture(engine_of):
    picture = synthetic_picture()
    assert (picture.shape, picture.dtype) == ((1120, 1120, 3), np.uint8)
    assert np.array_equal(picture, synthetic_picture())
    # Noise does not compress: it is no plain area that a shortcut could skip.
    assert picture[::8, ::8].std() > 60
    vision = engine_of().config.vision
    assert choose_canvas(1120, 1120, vision) == (2, 2)
    assert len(engine_of().tile(Image.fromarray(picture)).pixel_values) == 4
