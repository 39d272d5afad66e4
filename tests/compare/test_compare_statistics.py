"""Figures against scikit-learn, scipy and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest, poisson
from sklearn import metrics
from sklearn.calibration import calibration_curve

from visionward.compare import calibration, decisions, flips, intervals, matching_threshold, times
from visionward.compare.divergence import kl_divergence, relative_error

BOOLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def _arrays(pairs):
    labels, decided = zip(*pairs, strict=True)
    return np.array(labels), np.array(decided)


@given(BOOLS)
def test_measures_are_those_of_scikit_learn(pairs):
    labels, decided = _arrays(pairs)
    sums = decisions.decision_counts(labels, decided).sum(axis=0).astype(float)
    tn, fp, fn, tp = metrics.confusion_matrix(labels, decided, labels=[False, True]).ravel()
    assert sums.tolist() == [tp, fp, fn, tn]
    expected = metrics.precision_recall_fscore_support(
        labels, decided, average="binary", pos_label=True, zero_division=np.nan
    )[:3]
    found = [decisions.precision(sums), decisions.recall(sums), decisions.f1(sums)]
    # scikit-learn's F1 is nan only where precision and recall both are.
    np.testing.assert_allclose(found[:2], expected[:2])
    if tp + fp + fn:
        assert found[2] == pytest.approx(expected[2] if not math.isnan(expected[2]) else 0.0)
    else:
        assert math.isnan(found[2])
    if fp + tn:
        assert decisions.false_positive_rate(sums) == pytest.approx(fp / (fp + tn))


@given(BOOLS, st.integers(1, 7))
def test_group_sums_keep_the_total(pairs, size):
    counts = decisions.decision_counts(*_arrays(pairs))
    summed = decisions.sum_by_group(counts, [str(i % size) for i in range(len(pairs))])
    assert len(summed) == min(size, len(pairs))
    np.testing.assert_array_equal(summed.sum(axis=0), counts.sum(axis=0))


def test_copies_are_in_one_group():
    groups = ["a", "b", "b", "c", "d", "e"]
    joined = decisions.join_copies(groups, ["1", "1", "2", "2", "3", "4"])
    assert [joined.index(name) for name in joined] == [0, 0, 0, 0, 4, 5]
    assert decisions.join_copies(groups, list("123456")) == groups


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=25))
def test_copies_join_the_groups_that_graphs_say(rows):
    """Samples are joined exactly where a path of equal groups and equal digests leads from one to the other."""
    groups, digests = [f"g{group}" for group, _ in rows], [f"d{digest}" for _, digest in rows]
    edges = np.array([[one[0] == other[0] or one[1] == other[1] for other in rows] for one in rows], bool)
    components = connected_components(edges, directed=False)[1] if rows else []
    joined = decisions.join_copies(groups, digests)
    assert [joined.index(name) for name in joined] == [list(components).index(i) for i in components]


def test_mcnemar_by_hand():
    # 3 flips one way, 1 the other: P(at most 1 or at least 3 of 4) = (1 + 4 + 4 + 1) / 16.
    assert flips.mcnemar(3, 1) == pytest.approx(10 / 16)
    assert flips.mcnemar(0, 0) == 1
    assert flips.mcnemar(6, 0) == pytest.approx(2 / 64)
    assert flips.min_one_sided_flips() == 6


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_a_fair_coin(one, other):
    total = one + other
    weights = [math.comb(total, k) for k in range(total + 1)]
    expected = sum(weight for weight in weights if weight <= weights[one]) / 2**total
    assert flips.mcnemar(one, other) == pytest.approx(expected)


def test_flips_by_label():
    reference = np.array([1, 1, 0, 0, 1, 0], bool)
    candidate = np.array([0, 1, 1, 0, 1, 1], bool)
    found = flips.flips_by_label(reference, candidate, [True, True, True, False, None, False], list("abcdef"))
    assert (found.unsafe.to_safe, found.unsafe.to_unsafe, found.unsafe.count) == (1, 1, 3)
    assert (found.safe.to_safe, found.safe.to_unsafe, found.safe.count) == (0, 1, 2)
    assert (found.unlabelled.count, found.unlabelled.to_unsafe) == (1, 0)
    assert (found.all.to_unsafe, found.all.to_safe) == (2, 1)
    assert found.all.grouped_p_value is None


def test_groups_that_flip_together_count_once():
    """Six flips are significant; six flips of one question asked six times are one."""
    reference, candidate = np.zeros(12, bool), np.array([True] * 6 + [False] * 6)
    apart = flips.flip_test(reference, candidate, [str(i) for i in range(12)])
    together = flips.flip_test(reference, candidate, ["a"] * 6 + [str(i) for i in range(6)])
    assert apart.decisive_p == pytest.approx(2 / 64)
    assert together.p_value == apart.p_value
    assert together.decisive_p == 1


def test_grouped_p_value_is_exact_for_few_groups():
    reference = np.zeros(10, bool)
    candidate = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 0], bool)
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    changes = [2, 1, 1, 1]  # of the groups a to d; e never changes
    every = [
        sum(sign * change for sign, change in zip(signs, changes, strict=True))
        for signs in itertools.product((-1, 1), repeat=4)
    ]
    expected = np.mean([abs(total) >= 5 for total in every])
    assert flips.flip_test(reference, candidate, groups).grouped_p_value == pytest.approx(expected)


def test_bootstrap_of_a_mean_is_scipys():
    from scipy.stats import bootstrap  # noqa: PLC0415

    values = np.random.default_rng(3).gamma(2, 3, 40)
    found = intervals.mean_estimate(values.tolist(), [str(i) for i in range(40)])
    expected = bootstrap(
        (values,), np.mean, n_resamples=intervals.RESAMPLES, method="BCa", rng=np.random.default_rng(intervals.SEED)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_duplicates_do_not_shrink_the_error_bars():
    rng = np.random.default_rng(1)
    labels, decided = rng.random(40) < 0.5, rng.random(40) < 0.5
    counts = decisions.decision_counts(labels, decided)
    names = [str(i) for i in range(40)]
    once = intervals.measure_estimates(counts, names)
    copied = np.repeat(counts, 5, axis=0)
    grouped = intervals.measure_estimates(copied, list(np.repeat(names, 5)))
    naive = intervals.measure_estimates(copied, [str(i) for i in range(200)])
    for name in decisions.MEASURES:
        assert (grouped[name].low, grouped[name].high) == pytest.approx((once[name].low, once[name].high), abs=0.02)
        assert naive[name].high - naive[name].low < 0.6 * (once[name].high - once[name].low)


def test_everything_right_is_not_certain():
    """20 of 20: the lower bound is (0.025)^(1/20), by Clopper and Pearson."""
    labels = np.array([True] * 20 + [False] * 30)
    found = intervals.measure_estimates(decisions.decision_counts(labels, labels), [str(i) for i in range(50)])
    assert found["recall"].method == "exact"
    assert found["recall"].low == pytest.approx(0.025 ** (1 / 20))
    assert found["fpr"].value == 0
    assert found["fpr"].high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found["f1"].low == pytest.approx(0.025 ** (1 / 20))


def test_larger_groups_make_everything_right_less_certain():
    """Clopper and Pearson's bound for as many groups as there were if all were as large as the largest."""
    labels = np.ones(40, bool)
    groups = ["a"] * 10 + [str(i) for i in range(30)]
    found = intervals.measure_estimates(decisions.decision_counts(labels, labels), groups)
    assert found["recall"].low == pytest.approx(0.025 ** (1 / 4))


def test_gamma_interval_is_the_published_one():
    """Down's syndrome by mother's age, children of fifth and later births (Fay and Feuer 1997, Table II).

    The limits are those that the R package dsrTest 1.0.0 prints in its vignette.
    """
    cases = [0, 8, 63, 112, 262, 295]
    births = np.array([327, 30666, 123419, 149919, 104088, 34392])
    standard = np.array([319933, 931318, 786511, 488235, 237863, 61313])
    weights = 1e5 * standard / standard.sum() / births
    low, high = intervals.gamma_bounds(np.repeat(weights, cases), weights.max())
    assert (weights @ cases, low, high) == pytest.approx((75.52901, 67.70212, 188.30017), rel=1e-7)


@pytest.mark.parametrize("seen", [0, 1, 5, 30])
def test_equal_weights_are_a_poisson_mean(seen):
    low, high = intervals.gamma_bounds(np.ones(seen), 1.0)
    assert poisson.cdf(seen, high) == pytest.approx(0.025)
    assert poisson.sf(seen - 1, low) == pytest.approx(0.025 if seen else 1)


def test_no_flips_do_not_prove_equality():
    labels = np.array([True, False] * 10)
    counts = decisions.decision_counts(labels, labels)
    found = intervals.difference_estimates(counts, counts, [str(i) for i in range(20)])
    assert found["recall"].value == 0
    assert found["recall"].low == pytest.approx(math.log(0.025) / 10)
    assert found["recall"].method == "gamma"


def test_no_flips_among_many_are_as_clopper_and_pearson_say():
    labels = np.ones(400, bool)
    counts = decisions.decision_counts(labels, labels)
    found = intervals.difference_estimates(counts, counts, [str(i) for i in range(400)])["recall"]
    assert found.high == pytest.approx(binomtest(0, 400).proportion_ci(method="exact").high, rel=0.01)
    assert found.low == -found.high


def test_copies_are_as_uncertain_as_what_they_are_copies_of():
    labels = np.array([True] * 10 + [False] * 10)
    once = decisions.decision_counts(labels, labels)
    names = [str(i) for i in range(20)]
    copied = np.repeat(once, 20, axis=0)
    alone = intervals.difference_estimates(once, once, names)
    grouped = intervals.difference_estimates(copied, copied, list(np.repeat(names, 20)))
    for name in ("recall", "fpr"):
        assert (grouped[name].low, grouped[name].high) == pytest.approx((alone[name].low, alone[name].high))
        assert grouped[name].high > 0.3


def test_a_group_that_flips_is_one_flip():
    """Precision and F1 have no interval where few groups change, however many decisions that are."""
    labels = np.array([True] * 40 + [False] * 40)
    flipped = labels.copy()
    flipped[:20] = False
    counts = [decisions.decision_counts(labels, decided) for decided in (labels, flipped)]
    found = intervals.difference_estimates(*counts, [str(i // 20) for i in range(80)])
    assert found["f1"].value < 0
    assert found["f1"].low is None
    assert found["recall"].value == -0.5
    assert found["recall"].high > 0


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_significant_flips_exclude_no_change(one, other):
    """Of independent samples the interval never contradicts the exact McNemar test."""
    gained = np.array([True] * one + [False] * other + [True] * 100)
    labels = np.ones(len(gained), bool)
    reference = np.array([False] * one + [True] * other + [True] * 100)
    both = np.concatenate([decisions.decision_counts(labels, decided) for decided in (reference, gained)], axis=1)
    found = intervals.change_of_rate(both, *decisions.PROPORTIONS["recall"])
    if flips.mcnemar(one, other) < flips.SIGNIFICANCE:
        assert not found.low <= 0 <= found.high


@given(BOOLS, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_intervals_hold_their_figure(pairs, size):
    labels, decided = _arrays(pairs)
    groups = [str(i // size) for i in range(len(pairs))]
    counts = decisions.decision_counts(labels, decided)
    other = decisions.decision_counts(labels, ~decided)
    found = [*intervals.measure_estimates(counts, groups).values()]
    found += intervals.difference_estimates(counts, other, groups).values()
    for estimate in found:
        if estimate.value is None:
            assert estimate.low is None
        elif estimate.low is not None:
            assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1


SCORES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda i: i / 20), st.booleans()), min_size=1, max_size=40
)


@given(SCORES, st.integers(0, 12), st.integers(0, 12), st.integers(0, 20).map(lambda i: i / 20))
def test_matching_threshold_is_the_best_of_all(rows, allowed, caught, threshold):
    labels, scores, always = (np.array(column) for column in zip(*rows, strict=True))
    always &= scores > 0.7

    def confusion(threshold):
        return decisions.Confusion.of(decisions.decision_counts(labels, always | (scores >= threshold)))

    present, reference = confusion(threshold), decisions.Confusion(caught, allowed, 0, 0)
    found = matching_threshold.matching_threshold(labels, scores, always, present, reference)
    fitting = [confusion(t) for t in [*np.arange(41) / 40] if confusion(t).false_alarms <= allowed]
    best = max((one.caught for one in fitting), default=0)
    if labels.all():
        assert found is None
    elif found is None:
        assert not fitting or best <= confusion(1.0).caught
    elif found.unchanged:
        assert found.confusion == present
        assert present.false_alarms <= allowed
        assert present.caught >= min(best, caught)
        assert (found.low, found.high, found.text) == (None, None, "unchanged")
    else:
        assert present.false_alarms > allowed or present.caught < min(best, caught)
        assert found.confusion.false_alarms <= allowed
        assert found.confusion.caught == best
        assert 0 <= found.low <= found.high <= 1
        assert confusion(found.high) == found.confusion
        # What a person reads off the text decides alike, at both ends.
        for end in found.text.split(" to "):
            assert confusion(float(end)) == found.confusion


def test_matching_threshold_by_hand():
    labels = np.array([False, False, False, False, True, True])
    scores = np.array([0.1, 0.2, 0.6, 0.9, 0.5, 0.95])
    none = np.zeros(6, bool)
    present, reference = decisions.Confusion(2, 2, 0, 2), decisions.Confusion(2, 1, 0, 3)
    found = matching_threshold.matching_threshold(labels, scores, none, present, reference)
    # One false alarm is allowed, so above 0.6; the next score up is 0.9.
    assert (found.unchanged, found.low, found.high) == (False, 0.6, 0.9)
    assert found.text == "0.61 to 0.90"
    assert (found.fpr, found.recall) == (0.25, 0.5)


def test_where_nothing_flips_the_threshold_stays():
    labels = np.array([False, False, True, True, True])
    scores = np.array([0.02, 0.46, 0.48, 0.97, 0.99])
    decided = decisions.Confusion.of(decisions.decision_counts(labels, scores >= 0.5))
    found = matching_threshold.matching_threshold(labels, scores, np.zeros(5, bool), decided, decided)
    assert found.text == "unchanged"
    assert found.confusion == decided


def test_narrow_intervals_get_the_digits_that_they_need():
    confusion = decisions.Confusion(0, 0, 0, 0)
    for low, high, text in (
        (0.4812, 0.494, "0.482 to 0.494"),
        (0.0, 0.031, "0.01 to 0.03"),
        (0.69999, 0.70001, "0.70000 to 0.70001"),
        (0.3, math.nextafter(0.3, 1), repr(math.nextafter(0.3, 1))),
    ):
        assert matching_threshold.Threshold(False, low, high, confusion, None, 0.0).text == text


def _times(rng, count, ratio, spread):
    """Two models' times on pictures that differ much from each other."""
    base = rng.gamma(4, 50, count)
    return [(ratio * one * rng.lognormal(0, spread), one * rng.lognormal(0, spread)) for one in base]


def test_times_of_equal_models_do_not_differ():
    rng = np.random.default_rng(0)
    ratios = [times.ratio_estimate(_times(rng, 60, 1.0, 0.3)) for _ in range(1000)]
    assert np.mean([one.low <= 1 <= one.high for one in ratios]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([times.exceeds_noise(one) for one in ratios]) < 0.025


def test_disturbances_that_last_are_noise():
    """One model was slowed down by half for a third of its run: neighbours are not independent."""
    rng = np.random.default_rng(1)
    pairs = _times(rng, 300, 1.0, 0.05)
    pairs = [(one * (1.5 if i < 100 else 1), other) for i, (one, other) in enumerate(pairs)]
    ratio = times.ratio_estimate(pairs)
    assert binomtest(sum(one > other for one, other in pairs), 300).pvalue < 1e-6
    assert not times.exceeds_noise(ratio)


def test_times_that_differ_are_told():
    ratio = times.ratio_estimate(_times(np.random.default_rng(2), 60, 0.6, 0.2))
    assert ratio.low < 0.6 < ratio.high
    assert times.exceeds_noise(ratio)
    exact = times.ratio_estimate([(3.0, 2.0)] * 5)
    assert (exact.low, exact.high) == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize("pairs", [[], [(0.0, 1.0)], [(2.0, 1.0)]])
def test_a_single_time_tells_nothing(pairs):
    assert not times.exceeds_noise(times.ratio_estimate(pairs))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=80))
def test_reliability_is_scikit_learns(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    found = calibration.reliability(labels, scores)
    share, mean = calibration_curve(labels, scores, n_bins=calibration.BINS) if len(set(labels)) > 1 else (None, None)
    if share is not None:
        np.testing.assert_allclose([one.unsafe for one in found.bins], share)
        np.testing.assert_allclose([one.score for one in found.bins], mean)
    assert sum(one.count for one in found.bins) == len(rows)
    assert found.brier == pytest.approx(np.mean((scores - labels) ** 2))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60))
def test_average_precision_is_scikit_learns(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    found = calibration.average_precision(labels, scores)
    if labels.any():
        assert found == pytest.approx(metrics.average_precision_score(labels, scores))
    else:
        assert found is None


def test_kl_divergence_by_hand_and_by_scipy():
    from scipy.stats import entropy  # noqa: PLC0415

    p, q = np.log(np.array([0.5, 0.25, 0.25], np.float32)), np.log(np.array([0.25, 0.5, 0.25], np.float32))
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(0.5), rel=1e-6)
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 3, (2, 4000)).astype(np.float32)
    expected = entropy(np.exp(one.astype(float)), np.exp(other.astype(float)))
    assert kl_divergence(one, other) == pytest.approx(expected, rel=1e-6)
    assert kl_divergence(one, one + 5) == pytest.approx(0, abs=1e-6)


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32)) == pytest.approx(0.1)
