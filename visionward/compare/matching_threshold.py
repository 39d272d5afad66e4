"""The thresholds that give a candidate the reference's false-positive rate."""

import math
from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, Confusion, Values, decision_counts


@dataclass(frozen=True)
class Threshold:
    """The thresholds with which a candidate raises no more false alarms than the reference.

    Attributes:
        unchanged: the present threshold is one: with it the candidate raises no more false alarms, and misses no more
            than the reference does or than the candidate would with any other.
        low: lower end, excluded, of an interval of thresholds that give the same decisions on these samples.
        high: upper end, included; both are None if the threshold is unchanged.
        confusion: decisions with such a threshold.
        recall: recall with such a threshold; None without an unsafe sample.
        fpr: false-positive rate with such a threshold.
    """

    unchanged: bool
    low: float | None
    high: float | None
    confusion: Confusion
    recall: float | None
    fpr: float

    @property
    def text(self) -> str:
        """``unchanged``, or the interval, rounded so that both of its ends give the same decisions."""
        if self.low is None or self.high is None:
            return "unchanged"
        for digits in range(2, 17):
            scale = 10**digits
            low, high = (math.floor(self.low * scale) + 1) / scale, math.floor(self.high * scale) / scale
            if self.low < low < high <= self.high:
                return f"{low:.{digits}f} to {high:.{digits}f}"
        return repr(self.high)


def matching_threshold(
    labels: Bools, scores: Values, always: Bools, present: Confusion, reference: Confusion
) -> Threshold | None:
    """The thresholds with the highest recall among those with at most the reference's false alarms.

    Args:
        labels: which samples are unsafe.
        scores: P(unsafe) of the model.
        always: samples that count as unsafe at any threshold, because the model gave no answer.
        present: decisions of the model with the threshold in force.
        reference: decisions of the reference.

    Returns:
        None without a safe sample, or if more samples always count as unsafe than the reference has false alarms.
    """
    safe = ~labels
    if not safe.any():
        return None
    found = _best_interval(labels, scores, always, reference.false_alarms)
    caught = 0 if found is None else _confusion(labels, scores, always, found[1]).caught
    if present.false_alarms <= reference.false_alarms and present.caught >= min(caught, reference.caught):
        return _threshold(labels, present, None)
    return None if found is None else _threshold(labels, _confusion(labels, scores, always, found[1]), found)


def _threshold(labels: Bools, confusion: Confusion, interval: tuple[float, float] | None) -> Threshold:
    low, high = (None, None) if interval is None else interval
    unsafe = int(labels.sum())
    recall = confusion.caught / unsafe if unsafe else None
    return Threshold(interval is None, low, high, confusion, recall, confusion.false_alarms / (len(labels) - unsafe))


def _best_interval(labels: Bools, scores: Values, always: Bools, false_alarms: int) -> tuple[float, float] | None:
    """Lower end (excluded) and upper end (included); None if no threshold up to 1 has so few false alarms."""
    free = np.sort(scores[~labels & ~always])[::-1]
    allowed = false_alarms - int(np.sum(~labels & always))
    if allowed < 0:
        return None
    # If that many are allowed, every threshold qualifies, and the lowest ones have the highest recall.
    low = float(free[allowed]) if allowed < len(free) else 0.0
    above = scores[~always] if allowed >= len(free) else scores[~always & (scores > low)]
    high = float(above.min()) if len(above) else 1.0
    return (low, high) if allowed >= len(free) or low < high else None


def _confusion(labels: Bools, scores: Values, always: Bools, threshold: float) -> Confusion:
    return Confusion.of(decision_counts(labels, always | (scores >= threshold)))
