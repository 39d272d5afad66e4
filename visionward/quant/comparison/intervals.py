"""Confidence intervals by resampling groups: variants of one question are one observation, not many.

Where resampling cannot show any uncertainty, because everything or nothing went right, exact binomial bounds over the
groups stand in: twenty of twenty does not mean that the next one is certain.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from visionward.quant.comparison.decisions import MEASURES, PROPORTIONS, Counts, Values, sum_by_group

Method: TypeAlias = Literal["bootstrap", "exact", "none"]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20_261
# Above this many groups the bias-corrected interval differs from the plain one by nothing, and its jackknife is slow.
_MOST_FOR_BCA = 1500
_BATCH_NUMBERS = 4_000_000
# Fewer differing decisions than this, and resampling them is no better than a guess.
FEW_FLIPS = 10


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval; None where it is not defined.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
        method: how the interval was made.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: Method = "none"


def resample(per_group: Values, statistic: Callable[[Values], Values]) -> Estimate:
    """A statistic of summed group values (groups, k), with a bootstrap interval.

    Args:
        per_group: what each group adds to the sums.
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

    for method in ("BCa", "percentile") if count <= _MOST_FOR_BCA else ("percentile",):
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
            # A resample without a positive has no recall: leave those out.
            spread = found.bootstrap_distribution[~np.isnan(found.bootstrap_distribution)]
            tail = (1 - CONFIDENCE) / 2
            low, high = (float(end) for end in np.quantile(spread, [tail, 1 - tail])) if len(spread) else (value, value)
        if not (np.isnan(low) or np.isnan(high)):
            break
    return Estimate(value, min(low, value), max(high, value), "bootstrap")


def exact_bounds(successes: int, count: int) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion."""
    from scipy.stats import binomtest  # noqa: PLC0415 - in the extra

    if not count:
        return 0.0, 1.0
    interval = binomtest(successes, count).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


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
            count = int(np.count_nonzero(per_group[:, success] + per_group[:, failure]))
            low, high = exact_bounds(count if estimate.value else 0, count)
            found[name] = Estimate(estimate.value, low, high, "exact")
    if ends:
        # The bounds of both at once: wider than needed, and honest.
        p, r = found["precision"], found["recall"]
        low = _harmonic(p.low, r.low) if found["f1"].value else 0.0
        high = 1.0 if found["f1"].value else _harmonic(p.high, r.high)
        found["f1"] = Estimate(found["f1"].value, low, high, "exact")
    return found


def _harmonic(one: float | None, other: float | None) -> float:
    """Harmonic mean; what is not known may be anything up to 1."""
    one, other = 1.0 if one is None else one, 1.0 if other is None else other
    return 2 * one * other / (one + other) if one + other else 0.0


def mean_estimate(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """A mean over samples."""
    if not values:
        return Estimate(None)
    rows = np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1)
    return resample(sum_by_group(rows, groups), lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def difference_estimates(reference: Counts, candidate: Counts, groups: Sequence[str]) -> dict[str, Estimate]:
    """Candidate minus reference of every measure, resampled together, because they judged the same samples."""
    both = sum_by_group(np.concatenate([reference, candidate], axis=1), groups)
    found = {
        name: resample(both, lambda sums, measure=measure: measure(sums[..., 4:]) - measure(sums[..., :4]))  # type: ignore[misc]
        for name, measure in MEASURES.items()
    }
    flips = int(np.abs(candidate - reference).sum()) // 2
    for name in MEASURES:
        if name in ("recall", "fpr"):
            found[name] = _few_flips(found[name], both, *PROPORTIONS[name])
        elif flips < FEW_FLIPS:
            # No exact bounds are known for these, and those of a few resampled flips would look too sure.
            found[name] = Estimate(found[name].value)
    return found


def _few_flips(estimate: Estimate, both: Values, success: int, failure: int) -> Estimate:
    """Exact bounds where few decisions differ: the bounds of flips each way over the groups, put together.

    A group that changes is taken to change by as many decisions as those that did, or by one if none did.
    """
    relevant = both[:, success] + both[:, failure] > 0
    change = (both[:, 4 + success] - both[:, success])[relevant]
    gained, lost, count = int(np.sum(change > 0)), int(np.sum(change < 0)), int(np.sum(relevant))
    if estimate.value is None or gained + lost >= FEW_FLIPS:
        return estimate
    changed = np.abs(change[change != 0])
    scale = (
        count * (float(changed.mean()) if len(changed) else 1.0) / float((both[:, success] + both[:, failure]).sum())
    )
    gain, loss = exact_bounds(gained, count), exact_bounds(lost, count)
    low, high = max(-1.0, scale * (gain[0] - loss[1])), min(1.0, scale * (gain[1] - loss[0]))
    return Estimate(estimate.value, min(low, estimate.value), max(high, estimate.value), "exact")
