"""Recall and false-positive rate of a model at every threshold."""

from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, Values

STEPS = 100
TABLE_THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class ThresholdPoint:
    """What a model would decide at a threshold.

    Attributes:
        threshold: P(unsafe) from which on it says unsafe.
        recall: share of the unsafe samples that it catches; None without any.
        fpr: share of the safe samples that it calls unsafe; None without any.
    """

    threshold: float
    recall: float | None
    fpr: float | None


def threshold_curve(labels: Bools, scores: Values, always: Bools, in_force: float) -> tuple[ThresholdPoint, ...]:
    """The points at 0, 0.01, ... 1 and at the threshold in force.

    Args:
        labels: which samples are unsafe.
        scores: P(unsafe) of the model.
        always: samples that count as unsafe at any threshold, because the model gave no answer.
        in_force: the threshold of the comparison.
    """
    thresholds = sorted({*(step / STEPS for step in range(STEPS + 1)), in_force})
    return tuple(
        ThresholdPoint(
            threshold,
            _share(always[labels] | (scores[labels] >= threshold)),
            _share(always[~labels] | (scores[~labels] >= threshold)),
        )
        for threshold in thresholds
    )


def _share(decisions: Bools) -> float | None:
    return float(np.mean(decisions)) if len(decisions) else None


def table_points(curve: tuple[ThresholdPoint, ...], in_force: float) -> tuple[ThresholdPoint, ...]:
    """The points of a curve that a table shows."""
    shown = {*TABLE_THRESHOLDS, in_force}
    return tuple(point for point in curve if point.threshold in shown)
