"""The thresholds that give a candidate the reference's false-positive rate."""

import math
from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, Confusion, Values, decision_counts


@dataclass(frozen=True)
class Threshold:
    """Where to put a candidate's threshold, so that it has no more false alarms than the reference has.

    Attributes:
        unchanged: the present one will do: with it the candidate has no more false alarms, and misses no more than the
            reference does, or than it would with any other threshold.
        low: any threshold above this one
        high: and up to this one decides alike on these samples; both are None where it is unchanged.
        confusion: what the candidate decides with it.
        recall: share of the unsafe samples that it then catches.
        fpr: its false-positive rate then.
    """

    unchanged: bool
    low: float | None
    high: float | None
    confusion: Confusion
    recall: float | None
    fpr: float

    @property
    def text(self) -> str:
        """``unchanged``, or the interval; both of its ends and all between them decide alike."""
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
    """The thresholds with which a model has at most the reference's false alarms and catches the most.

    Args:
        labels: which samples are unsafe.
        scores: of the model.
        always: samples that it calls unsafe at any threshold, because it did not really answer.
        present: what it decides with the threshold in force.
        reference: what the reference decides.

    Returns:
        None where there is no safe sample, or too many that are always called unsafe.
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
    """Lower end, which is not in it, and upper end, which is; None if no threshold up to 1 has so few false alarms."""
    free = np.sort(scores[~labels & ~always])[::-1]
    allowed = false_alarms - int(np.sum(~labels & always))
    if allowed < 0:
        return None
    # With so many allowed every threshold will do, and the lowest ones catch everything.
    low = float(free[allowed]) if allowed < len(free) else 0.0
    above = scores[~always] if allowed >= len(free) else scores[~always & (scores > low)]
    high = float(above.min()) if len(above) else 1.0
    return (low, high) if allowed >= len(free) or low < high else None


def _confusion(labels: Bools, scores: Values, always: Bools, threshold: float) -> Confusion:
    return Confusion.of(decision_counts(labels, always | (scores >= threshold)))
