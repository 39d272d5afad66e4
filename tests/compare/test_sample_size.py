"""The number of samples that a margin takes, against the intervals that it is meant for."""

import numpy as np
import pytest

from visionward.compare.decisions import independent_samples
from visionward.compare.intervals import change_bounds
from visionward.compare.sample_size import half_width, samples_needed


@pytest.mark.parametrize(("samples", "each_way"), [(50, 0), (185, 0), (200, 1), (400, 7), (3000, 40)])
def test_the_width_is_that_of_the_interval(samples, each_way):
    changes = np.zeros(samples)
    changes[:each_way], changes[each_way : 2 * each_way] = 1 / samples, -1 / samples
    low, high = change_bounds(changes, 1 / samples)
    assert half_width(samples, 2 * each_way / samples) == pytest.approx(high, rel=1e-9)
    assert half_width(samples, 2 * each_way / samples) == pytest.approx(-low, rel=1e-9)


def test_needed_for_two_points():
    # 3.69 / 185 = 0.0199.
    assert samples_needed(0.02) == 185
    assert samples_needed(0.01) == 369


@pytest.mark.parametrize("margin", [0.001, 0.02, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("changed", [0.0, 0.004, 0.1, 0.5])
def test_it_is_the_smallest_number(margin, changed):
    needed = samples_needed(margin, changed)
    assert half_width(needed, changed) <= margin
    assert needed == 1 or half_width(needed - 1, changed) > margin


def test_independent_samples():
    assert independent_samples([]) == 0
    assert independent_samples(list("abcdef")) == 6
    assert independent_samples(list("aabbcc")) == 3
    # One group of four among ten samples: as if there were two and a half of its size.
    assert independent_samples(list("aaaabcdefg")) == 2
