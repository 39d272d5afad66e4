"""What the figures of a model allow to conclude, in one word."""

from typing import Literal, TypeAlias

from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.flips import SIGNIFICANCE, FlipTest
from visionward.compare.intervals import Estimate

Finding: TypeAlias = Literal["worse", "equivalent", "undecided", "better", "other"]


def finding(figures: SetFigures, model: ModelFigures, margin: float) -> Finding:
    """The finding for one model on one data set.

    ``worse`` and ``better`` are significant changes of misses or false alarms, ``other`` is one of each. ``equivalent``
    means that the intervals of both changes stay within the margin on the side of more errors. ``undecided`` is
    everything else, a data set without unsafe or without safe samples included.

    Args:
        figures: of the data set.
        model: any model but the reference.
        margin: accepted loss of recall and accepted rise of the false-positive rate, 0 to 1.
    """
    against = model.against
    if against is None or not figures.unsafe or not figures.safe:
        return "undecided"
    missed, alarms = against.flips.unsafe, against.flips.safe
    recall, fpr = against.differences["recall"], against.differences["fpr"]
    recall_changed, fpr_changed = is_significant(missed, recall), is_significant(alarms, fpr)
    more_missed, fewer_missed = missed.to_safe > missed.to_unsafe, missed.to_safe < missed.to_unsafe
    more_alarms, fewer_alarms = alarms.to_unsafe > alarms.to_safe, alarms.to_unsafe < alarms.to_safe
    worse = (recall_changed and more_missed) or (fpr_changed and more_alarms)
    better = (recall_changed and fewer_missed) or (fpr_changed and fewer_alarms)
    if worse:
        return "other" if better else "worse"
    if recall.low is not None and recall.low >= -margin and fpr.high is not None and fpr.high <= margin:
        return "better" if better else "equivalent"
    return "undecided"


def is_significant(test: FlipTest, change: Estimate) -> bool:
    """Whether chance does not explain a change: the test is significant, and the interval excludes zero.

    For independent samples the test implies the interval. In groups it does not: swapping the models for a whole group
    assumes that a group could as well have changed the other way, which is false if, for example, single decisions are
    gained and whole groups are lost.
    """
    excluded = change.low is not None and change.high is not None and not change.low <= 0 <= change.high
    return test.decisive_p < SIGNIFICANCE and excluded
