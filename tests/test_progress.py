"""The counter of a stage: every report in order, whatever thread counts."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from visionward.progress import Progress, ProgressCounter


def test_the_beginning_and_every_advance_are_reported():
    reports = []
    counter = ProgressCounter(reports.append, "text file", 10, "bytes")
    counter.advance(4)
    counter.advance(100)
    assert reports == [Progress("text file", done, 10, "bytes") for done in (0, 4, 10)]


def test_a_stage_without_units_is_not_reported():
    reports = []
    ProgressCounter(reports.append, "checking", 0, "bytes").advance(1)
    assert reports == []


def test_counts_of_several_threads_add_up_and_rise():
    reports = []
    counter = ProgressCounter(reports.append, "checking", 4000, "bytes")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(counter.advance, [1] * 4000))
    assert [report.done for report in reports] == list(range(4001))


def test_what_the_callback_raises_comes_out():
    def refuse(progress):
        if progress.done:
            raise InterruptedError

    counter = ProgressCounter(refuse, "checking", 2, "bytes")
    with pytest.raises(InterruptedError):
        counter.advance(1)


def test_without_a_callback_nothing_happens():
    ProgressCounter(None, "checking", 2, "bytes").advance(1)
