"""Scores rather than decisions: whether they rank the samples, and whether they can be read as probabilities."""

from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, Values

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples with a score between two bounds.

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
    """Whether P(unsafe) is the share of unsafe samples: of those with a score of 0.8, 8 in 10.

    Attributes:
        bins: ten bins of equal width, without the empty ones.
        expected_error: mean distance between score and share, weighted by the counts of the bins.
        brier: mean squared distance between score and label.
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
