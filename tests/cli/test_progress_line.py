"""The progress line: what a terminal shows of it, at any width, and nothing elsewhere."""

import io
import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.cli import progress as progress_module
from visionward.cli.progress import ProgressLine, RateEstimate, line_text, progress_line
from visionward.progress import Progress


class Terminal(io.StringIO):
    """A terminal of one line: what is written over what."""

    columns = 80

    def isatty(self):
        return True

    @property
    def shown(self):
        line = []
        for text in self.getvalue().split("\r"):
            assert "\n" not in text
            assert len(text) < self.columns
            line[: len(text)] = text
        return "".join(line).rstrip()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    # pytest puts sys.stderr back between a fixture and its test.
    monkeypatch.setattr(progress_module, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(terminal.columns))
    return terminal


def test_rate_and_time_left_are_those_measured(terminal, clock):
    with progress_line() as on_progress:
        on_progress(Progress("vision", 0, 32, "layers"))
        assert terminal.shown == "vision     0 %   0 of 32 layers"
        for done in range(1, 9):
            clock.now += 0.5
            on_progress(Progress("vision", done, 32, "layers"))
        assert terminal.shown == "vision    25 %   8 of 32 layers   2.0 layers/s   12 s left"
        on_progress(Progress("prompt", 0, 256, "tokens"))
        assert terminal.shown == "prompt     0 %   0 of 256 tokens"
    assert terminal.shown == ""


def test_the_time_elapsed_is_shown_as_long_as_nothing_is_done(terminal, clock):
    with progress_line() as on_progress:
        on_progress(Progress("vision", 0, 32, "layers"))
        clock.now += 75
        on_progress(Progress("vision", 0, 32, "layers"))
        assert terminal.shown == "vision     0 %   0 of 32 layers   1 min 15 s elapsed"
        clock.now += 5
        on_progress(Progress("vision", 16, 32, "layers"))
        assert terminal.shown.endswith(" left")


def test_the_rate_follows_a_machine_that_becomes_slower(clock):
    estimate = RateEstimate()
    done = 0
    for step in [100] * 200 + [10] * 300:
        clock.now += 0.1
        done += step
        estimate.add(clock.now, done)
    assert estimate.rate == pytest.approx(100, rel=0.02)


def test_no_rate_before_a_second_has_passed():
    estimate = RateEstimate()
    estimate.add(0.0, 0)
    estimate.add(0.9, 50)
    assert estimate.rate is None
    estimate.add(2.0, 100)
    assert estimate.rate == pytest.approx(50)


def test_reports_in_a_tight_loop_are_not_all_drawn(terminal, clock):
    with progress_line() as on_progress:
        for done in range(10_000):
            clock.now += 0.001
            on_progress(Progress("text file", done, 10_000, "bytes"))
    assert terminal.getvalue().count("\r") < 150


@given(
    st.text(st.characters(categories=["Ll"], max_codepoint=127), min_size=1, max_size=20),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.sampled_from(["bytes", "tiles", "layers", "tokens", "tensors", "samples"]),
    st.none() | st.floats(1e-3, 1e12),
    st.integers(1, 200),
)
def test_the_line_always_fits(stage, done, total, unit, rate, columns):
    text = line_text(Progress(stage, min(done, total), total, unit), rate, columns)
    assert len(text) < columns


def test_what_is_left_out_first():
    progress = Progress("text file", 4_000_000_000, 16_000_000_000, "bytes")
    assert line_text(progress, 400e6, 80) == "text file    25 %   4.00 GB of 16.0 GB   400 MB/s   30 s left"
    assert line_text(progress, 400e6, 60) == "text file    25 %   4.00 GB of 16.0 GB   30 s left"
    assert line_text(progress, 400e6, 40) == "text file    25 %   30 s left"
    assert line_text(progress, 400e6, 20) == "text file    25 %"


def test_nothing_is_written_without_a_terminal(capsys):
    with progress_line() as on_progress:
        assert on_progress is None
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("case", ["dumb", "verbose", "closed"])
def test_nothing_is_written_where_a_line_cannot_be_kept(monkeypatch, terminal, case):
    root = logging.getLogger()
    level = root.level
    if case == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif case == "verbose":
        root.setLevel(logging.DEBUG)
    else:
        monkeypatch.setattr(terminal, "isatty", _closed)
    try:
        with progress_line() as on_progress:
            assert on_progress is None
    finally:
        root.setLevel(level)
    assert terminal.getvalue() == ""


def _closed():
    raise ValueError("I/O operation on closed file")


def test_the_line_is_cleared_when_the_work_fails(terminal):
    def interrupted_work():
        with progress_line() as on_progress:
            on_progress(Progress("vision", 1, 32, "layers"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert "vision" in terminal.getvalue()
    assert terminal.shown == ""


def test_a_terminal_that_goes_does_not_end_the_work(terminal):
    line = ProgressLine(terminal)
    line.update(Progress("vision", 1, 32, "layers"))
    terminal.write = lambda _text: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    line.update(Progress("vision", 32, 32, "layers"))
    line.clear()
