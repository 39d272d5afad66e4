"""Scores rather than decisions: ranking, reliability, and the threshold for the reference's false-positive rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionward.quant.comparison.decisions import Bools, Confusion, Values, decision_counts

BINS = 10


@dataclass(frozen=True)
class Threshold:
    """Where to put a candidate's threshold.

    Attributes:
        threshold: unsafe from this score on; the candidate then has no more false alarms than the reference has.
        low: any threshold above this one
        high: and up to this one decides alike on these samples.
        confusion: what the candidate decides with it.
        recall: share of the unsafe samples that it then catches.
        fpr: its false-positive rate then.
    """

    threshold: float
    low: float
    high: float
    confusion: Confusion
    recall: float | None
    fpr: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples whose score is between two bounds.

    Attributes:
        low: lower bound.
        high: upper bound.
        count: samples.
        score: their mean score.
        unsafe: share of them that is labelled unsafe.
    """

    low: float
    high: float
    count: int
    score: float
    unsafe: float


@dataclass(frozen=True)
class Reliability:
    """Whether a score of 0.8 means unsafe in 8 of 10 cases, on samples of this make-up.

    Attributes:
        bins: ten of equal width, without the empty ones.
        expected_error: mean distance of score and share, weighted by the bins' counts.
        brier: mean squared distance of score and label.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_error: float
    brier: float


def average_precision(labels: Bools, scores: Values) -> float | None:
    """Area under the precision-recall curve; None without an unsafe sample."""
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - in the extra

    return float(average_precision_score(labels, scores)) if labels.any() else None


def reliability(labels: Bools, scores: Values) -> Reliability | None:
    """Reliability of scores in 0..1; None without samples."""
    from sklearn.metrics import brier_score_loss  # noqa: PLC0415 - in the extra

    if not len(labels):
        return None
    edges = np.linspace(0, 1, BINS + 1)
    # As scikit-learn's calibration_curve places them: a bound belongs to the bin below it.
    place = np.searchsorted(edges[1:-1], scores)
    bins = []
    for i in range(BINS):
        mask = place == i
        if mask.any():
            share, score = float(labels[mask].mean()), float(scores[mask].mean())
            bins.append(ReliabilityBin(float(edges[i]), float(edges[i + 1]), int(mask.sum()), score, share))
    error = sum(one.count * abs(one.score - one.unsafe) for one in bins) / len(labels)
    brier = float(brier_score_loss(labels.astype(int), scores, pos_label=1))
    return Reliability(tuple(bins), error, brier)


def matching_threshold(labels: Bools, scores: Values, always: Bools, false_alarms: int) -> Threshold | None:
    """The threshold with which a model has at most so many false alarms and catches the most.

    Args:
        labels: which samples are unsafe.
        scores: of the model.
        always: samples that it calls unsafe at any threshold, because it did not really answer.
        false_alarms: the reference's.

    Returns:
        None where there is no safe sample, or too many that are always called unsafe.
    """
    safe = ~labels
    if not safe.any():
        return None
    free = np.sort(scores[safe & ~always])[::-1]
    allowed = false_alarms - int(np.sum(safe & always))
    if allowed < 0:
        return None
    low = float(free[allowed]) if allowed < len(free) else None
    above = scores[~always] if low is None else scores[~always & (scores > low)]
    high = float(above.min()) if len(above) else 1.0
    # Without a bound below every threshold up to the least score will do; in the middle there is room on both sides.
    threshold = high / 2 if low is None else _between(low, high)
    if low is not None and threshold <= low:
        return None
    decisions = always | (scores >= threshold)
    confusion = Confusion.of(decision_counts(labels, decisions))
    unsafe = int(labels.sum())
    return Threshold(
        threshold,
        low or 0.0,
        high,
        confusion,
        confusion.caught / unsafe if unsafe else None,
        confusion.false_alarms / int(safe.sum()),
    )


def _between(low: float, high: float) -> float:
    """A number above ``low`` and not above ``high``, with as few digits as will do."""
    middle = (low + high) / 2
    for digits in range(2, 17):
        short = round(middle, digits)
        if low < short <= high:
            return short
    return high


def percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile; None without values."""
    return float(np.percentile(np.asarray(values, np.float64), share)) if values else None
