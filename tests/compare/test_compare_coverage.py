"""Coverage of the intervals for changes of recall and false-positive rate, and size of the tests, by simulation.

Groups of a given size flip as wholes, by single decisions, or both; all alike, or the large or the small ones more
often; one way or both ways.
"""

import itertools

import numpy as np
import pytest

from visionward.compare.decisions import PROPORTIONS, decision_counts, sum_by_group
from visionward.compare.findings import is_significant
from visionward.compare.flips import SIGNIFICANCE, flip_test
from visionward.compare.intervals import change_bounds, change_of_rate

LEAST_COVERAGE = 0.94

SIZES = {
    "single samples": lambda count: np.ones(count, int),
    "fives": lambda count: np.full(count, 5),
    "twenties": lambda count: np.full(count, 20),
    "one to twenty": lambda count: np.arange(count) % 20 + 1,
    "ones and twenties": lambda count: np.where(np.arange(count) % 2, 20, 1),
    "one of twenty": lambda count: np.where(np.arange(count) == 0, 20, 1),
    "some of twenty": lambda count: np.where(np.arange(count) % 10 == 0, 20, 1),
}


def _whole(rng, sizes, flips, runs, chosen=None):
    """Groups that flip as wholes, and the expected number of flips of each."""
    chosen = np.ones(len(sizes), bool) if chosen is None else chosen
    rate = chosen * min(1, flips / sizes[chosen].sum())
    return (rng.random((runs, len(sizes))) < rate) * sizes, rate * sizes


def _large(rng, sizes, flips, runs):
    return _whole(rng, sizes, flips, runs, sizes == sizes.max())


def _small(rng, sizes, flips, runs):
    return _whole(rng, sizes, flips, runs, sizes == sizes.min())


def _single(rng, sizes, flips, runs):
    """Decisions that flip independently of each other."""
    rate = flips / sizes.sum()
    return rng.binomial(sizes, rate, (runs, len(sizes))), rate * sizes


def _mixed(rng, sizes, flips, runs):
    """Half of the flips come in whole groups."""
    whole, expected = _whole(rng, sizes, flips / 2, runs)
    single, more = _single(rng, sizes, flips / 2, runs)
    return np.where(whole > 0, whole, single), expected + (1 - expected / sizes) * more


def _correlated(rng, sizes, flips, runs):
    """Beta-binomial, with a correlation of 0.3 inside a group."""
    rate = flips / sizes.sum()
    rates = rng.beta(rate * 7 / 3, (1 - rate) * 7 / 3, (runs, len(sizes)))
    return rng.binomial(sizes, rates), rate * sizes


ONE_WAY = (_whole, _single, _large, _small, _mixed, _correlated)
BOTH_WAYS = ((_whole, _single), (_whole, _whole), (_single, _single), (_large, _small), (_small, _large))


def _coverage(rng, sizes, gains, losses, flips, runs):
    """Share of the runs whose interval holds the true change."""
    if losses is None:
        changes, truth = gains(rng, sizes, flips, runs)
    else:
        gained, expected = gains(rng, sizes, flips / 2, runs)
        lost, less = losses(rng, sizes, flips / 2, runs)
        changes = np.where(gained > 0, gained, -lost)
        # A group that gains cannot lose; how often it gains is known for whole groups and for single decisions.
        idle = (1 - flips / 2 / sizes.sum()) ** sizes if gains is _single else 1 - expected / sizes
        truth = expected - idle * less
    total = sizes.sum()
    low, high = change_bounds(changes / total, sizes.max() / total)
    held = (low <= truth.sum() / total + 1e-12) & (truth.sum() / total - 1e-12 <= high)
    return held.mean()


def _lowest(counts, all_flips, runs, seed):
    ways = [(one, None) for one in ONE_WAY] + list(BOTH_WAYS)
    found = {}
    for count, (name, sizes), (gains, losses), flips in itertools.product(counts, SIZES.items(), ways, all_flips):
        rng = np.random.default_rng([seed, len(found)])
        case = count, name, gains.__name__, losses and losses.__name__, flips
        found[case] = _coverage(rng, sizes(count), gains, losses, flips, runs)
    worst = min(found, key=found.get)
    return found[worst], worst


def test_intervals_cover():
    lowest, case = _lowest((20, 100), (0.25, 1, 4, 10), 400, seed=1)
    assert lowest >= LEAST_COVERAGE, case


@pytest.mark.slow
def test_intervals_cover_thoroughly():
    lowest, case = _lowest((20, 30, 50, 100, 200, 400), (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7, 10), 4_000, seed=2)
    assert lowest >= LEAST_COVERAGE, case


def _is_significant(reference, candidate, groups):
    labels = np.ones(len(reference), bool)
    counts = [decision_counts(labels, decided) for decided in (reference, candidate)]
    change = change_of_rate(sum_by_group(np.concatenate(counts, axis=1), groups), *PROPORTIONS["recall"])
    test = flip_test(reference, candidate, groups)
    return test.decisive_p < SIGNIFICANCE, is_significant(test, change)


def test_equal_models_are_seldom_is_significant():
    """Groups flip as wholes, each way as often: counted as independent decisions they would be told apart."""
    rng, runs = np.random.default_rng(3), 120
    groups = [str(i // 10) for i in range(300)]
    found, naive = 0, 0
    for _ in range(runs):
        reference, candidate = (np.repeat(rng.random(30) < 0.5, 10) for _ in range(2))
        found += _is_significant(reference, candidate, groups)[1]
        naive += _is_significant(reference, candidate, [str(i) for i in range(300)])[1]
    # 0.05 and three standard errors.
    assert found / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert naive / runs > 0.3


def test_single_gains_against_whole_groups_lost():
    """Equal rates, but a group gains a decision often and is lost as a whole seldom: swapping models misjudges that."""
    rng, runs, count, size = np.random.default_rng(4), 80, 100, 20
    groups = [str(i // size) for i in range(count * size)]
    swapped, found = 0, 0
    for _ in range(runs):
        kind = rng.random(count)
        reference, candidate = np.ones((2, count, size), bool)
        reference[kind < 0.2, 0] = False
        candidate[kind > 0.99] = False
        one, both = _is_significant(reference.ravel(), candidate.ravel(), groups)
        swapped, found = swapped + one, found + both
    assert swapped / runs > 0.2
    assert found / runs <= 0.05
