"""The interpreter's switch interval is short while an engine computes, and the host program's otherwise."""

import sys
import threading

import pytest

from visionward.runtime.switch_interval import INTERVAL_S, short_switch_interval


@pytest.fixture(autouse=True)
def _restored():
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_it_is_short_during_a_job_alone(engine_of):
    engine = engine_of()
    before = sys.getswitchinterval()
    assert engine.run(sys.getswitchinterval) == pytest.approx(INTERVAL_S)
    assert sys.getswitchinterval() == before
    with pytest.raises(ZeroDivisionError):
        engine.run(lambda: 1 / 0)
    assert sys.getswitchinterval() == before


def test_it_lasts_until_the_last_of_several_ends():
    before, entered, leave = sys.getswitchinterval(), threading.Event(), threading.Event()

    def other():
        with short_switch_interval():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with short_switch_interval():
        thread.start()
        assert entered.wait(60)
    assert sys.getswitchinterval() == pytest.approx(INTERVAL_S)
    leave.set()
    thread.join()
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("own", [1e-5, 2e-3])
def test_what_the_host_program_sets_meanwhile_stays(own):
    with short_switch_interval():
        sys.setswitchinterval(own)
    assert sys.getswitchinterval() == pytest.approx(own)


def test_a_shorter_one_of_the_host_program_stays():
    sys.setswitchinterval(1e-5)
    with short_switch_interval():
        assert sys.getswitchinterval() == pytest.approx(1e-5)
    assert sys.getswitchinterval() == pytest.approx(1e-5)
