"""Confidence intervals over groups: variants of one question are one observation, not many.

Figures of one model are resampled by group. If everything or nothing was right, resampling shows no uncertainty, and
exact binomial bounds replace it: twenty of twenty does not mean that the next one is certain.

Changes of recall and of the false-positive rate are sums of few and rare events, for which resampling fails. They get
the interval of Fay and Feuer for weighted sums of rare events: an event is the net change of a group, its weight the
size of that change.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from visionward.compare.decisions import MEASURES, PROPORTIONS, Counts, Values, sum_by_group

Method: TypeAlias = Literal["bootstrap", "exact", "gamma", "batch means", "none"]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20_261
# With more groups the bias-corrected interval equals the plain one, and its jackknife is slow.
_MAX_BCA_GROUPS = 1500
_BATCH_NUMBERS = 4_000_000
# With fewer groups that differ, resampling them gives intervals that are too narrow.
FEW_FLIPS = 10


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval; None if it is not defined.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
        method: how the interval was computed.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: Method = "none"


def resample(per_group: Values, statistic: Callable[[Values], Values]) -> Estimate:
    """A statistic of summed group values (groups, k), with a bootstrap interval.

    Args:
        per_group: the terms of each group in the sums.
        statistic: sums (..., k) to values (...).
    """
    from scipy.stats import DegenerateDataWarning, bootstrap  # noqa: PLC0415 - in the extra

    count = len(per_group)
    value = float(statistic(per_group.sum(axis=0))) if count else float("nan")
    if np.isnan(value):
        return Estimate(None)
    if count < 2:
        return Estimate(value)

    def of_indices(indices: Values, axis: int = -1) -> Values:
        return statistic(per_group[np.moveaxis(indices.astype(np.int64), axis, -1)].sum(axis=-2))

    for method in ("BCa", "percentile") if count <= _MAX_BCA_GROUPS else ("percentile",):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            found = bootstrap(
                (np.arange(count),),
                of_indices,
                n_resamples=RESAMPLES,
                batch=max(1, _BATCH_NUMBERS // (count * per_group.shape[1])),
                vectorized=True,
                confidence_level=CONFIDENCE,
                method=method,
                rng=np.random.default_rng(SEED),
            )
        low, high = (float(end) for end in found.confidence_interval)
        if method == "percentile" and (np.isnan(low) or np.isnan(high)):
            # A resample without an unsafe sample has no recall and is left out.
            spread = found.bootstrap_distribution[~np.isnan(found.bootstrap_distribution)]
            tail = (1 - CONFIDENCE) / 2
            low, high = (float(end) for end in np.quantile(spread, [tail, 1 - tail])) if len(spread) else (value, value)
        if not (np.isnan(low) or np.isnan(high)):
            break
    return Estimate(value, min(low, value), max(high, value), "bootstrap")


def bound_of_none(count: float) -> float:
    """Upper end of the Clopper-Pearson interval of a proportion with no success in ``count`` trials."""
    return float(1 - ((1 - CONFIDENCE) / 2) ** (1 / count)) if count else 1.0


def gamma_bounds(weights: Values, largest: float) -> tuple[Values, Values]:
    """Interval of an expected sum of weights, from the events that were observed.

    Fay and Feuer, Confidence intervals for directly standardized rates: a method based on the gamma distribution,
    Statistics in Medicine 16 (1997) 791-801. Events of each weight may have a rate of their own, of which nothing is
    assumed. The upper end counts one more event of the largest weight, so that no observed event does not mean no risk.
    With equal weights this is Garwood's exact interval of a Poisson mean, which contains Clopper and Pearson's.

    Args:
        weights: (..., events); a zero is no event.
        largest: the largest weight that an event could have had.

    Returns:
        Lower and upper ends (...).
    """
    from scipy.stats import chi2  # noqa: PLC0415 - in the extra

    def quantile(share: float, total: Values, squares: Values) -> Values:
        return np.asarray(squares / (2 * total) * chi2.ppf(share, 2 * total**2 / squares))

    tail = (1 - CONFIDENCE) / 2
    total, squares = weights.sum(axis=-1), np.sum(weights**2, axis=-1)
    some = total > 0
    low = np.where(some, quantile(tail, np.where(some, total, 1), np.where(some, squares, 1)), 0.0)
    return low, quantile(1 - tail, total + largest, squares + largest**2)


def change_bounds(changes: Values, largest: float) -> tuple[Values, Values]:
    """Interval of the expected sum of the changes of independent groups, for clustered matched pairs.

    The net gain or loss of a group is one event. Gains and losses get an interval each (`gamma_bounds`), which allows
    for one more event of the size of the largest group. The two are combined by the square-and-add rule: Zou and
    Donner, Construction of confidence limits about effect measures: a general approach, Statistics in Medicine 27
    (2008) 1693-1702.

    Nothing is assumed of how decisions of a group depend on each other, nor of whether larger groups change more
    often.

    Args:
        changes: (..., groups).
        largest: the largest change that a group could have made.

    Returns:
        Lower and upper ends (...).
    """
    gains, losses = np.maximum(changes, 0), np.maximum(-changes, 0)
    gained, lost = gains.sum(axis=-1), losses.sum(axis=-1)
    min_gained, max_gained = gamma_bounds(gains, largest)
    min_lost, max_lost = gamma_bounds(losses, largest)
    low = gained - lost - np.hypot(gained - min_gained, max_lost - lost)
    return low, gained - lost + np.hypot(max_gained - gained, lost - min_lost)


def measure_estimates(
    counts: Counts, groups: Sequence[str], wanted: Sequence[str] = tuple(MEASURES)
) -> dict[str, Estimate]:
    """Precision, recall, F1 and false-positive rate of one-hot decisions (samples, 4), or some of these."""
    per_group = sum_by_group(counts, groups)
    values = {name: float(measure(per_group.sum(axis=0))) for name, measure in MEASURES.items()}
    # F1 at its ends needs the bounds of the two that it is made of.
    ends = values["f1"] in (0.0, 1.0)
    names = [name for name in MEASURES if name in wanted or (ends and name in ("precision", "recall"))]
    found = {name: resample(per_group, MEASURES[name]) for name in names}
    for name, (success, failure) in PROPORTIONS.items():
        if name not in found:
            continue
        estimate = found[name]
        if estimate.value in (0.0, 1.0):
            # The number of groups if all had the size of the largest. This holds for samples that are not independent
            # in their group, and if larger groups err more often (Jensen's inequality on the product of 1 - rate).
            sizes = per_group[:, success] + per_group[:, failure]
            bound = bound_of_none(float(sizes.sum() / sizes.max()))
            low, high = (1 - bound, 1.0) if estimate.value else (0.0, bound)
            found[name] = Estimate(estimate.value, low, high, "exact")
    if ends:
        # The bounds of both at once: wider than necessary, but valid.
        p, r = found["precision"], found["recall"]
        low = _harmonic(p.low, r.low) if found["f1"].value else 0.0
        high = 1.0 if found["f1"].value else _harmonic(p.high, r.high)
        found["f1"] = Estimate(found["f1"].value, low, high, "exact")
    return found


def _harmonic(one: float | None, other: float | None) -> float:
    """Harmonic mean; an unknown value may be anything up to 1."""
    one, other = 1.0 if one is None else one, 1.0 if other is None else other
    return 2 * one * other / (one + other) if one + other else 0.0


def mean_estimate(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """A mean over samples."""
    if not values:
        return Estimate(None)
    rows = np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1)
    return resample(sum_by_group(rows, groups), lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def difference_estimates(reference: Counts, candidate: Counts, groups: Sequence[str]) -> dict[str, Estimate]:
    """Candidate minus reference for every measure, paired by group, because both judged the same samples."""
    both = sum_by_group(np.concatenate([reference, candidate], axis=1), groups)
    found = {name: change_of_rate(both, *PROPORTIONS[name]) for name in ("recall", "fpr")}
    few = np.count_nonzero(np.any(both[:, :4] != both[:, 4:], axis=1)) < FEW_FLIPS
    for name in ("precision", "f1"):
        measure = MEASURES[name]
        estimate = resample(both, lambda sums, measure=measure: measure(sums[..., 4:]) - measure(sums[..., :4]))  # type: ignore[misc]
        # There are no exact bounds for these, and resampling a few flips gives intervals that are too narrow.
        found[name] = Estimate(estimate.value) if few else estimate
    return {name: found[name] for name in MEASURES}


def change_of_rate(both: Values, success: int, failure: int) -> Estimate:
    """Change of a proportion whose denominator depends on the labels alone, and so is the same for both models.

    Args:
        both: (groups, 8): the four counts of the reference and then those of the candidate.
        success: column of the numerator.
        failure: column of the rest of the denominator.
    """
    sizes = both[:, success] + both[:, failure]
    total = float(sizes.sum())
    if not total:
        return Estimate(None)
    changes = (both[:, 4 + success] - both[:, success]) / total
    low, high = change_bounds(changes, float(sizes.max()) / total)
    return Estimate(float(changes.sum()), max(-1.0, float(low)), min(1.0, float(high)), "gamma")
