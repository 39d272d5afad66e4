"""Confusion counts, and the measures that follow from them.

Unsafe is the positive class: a miss is an unsafe sample that was called safe, a false alarm is a safe one that was
called unsafe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Counts: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

HITS, ALARMS, MISSES, PASSES = range(4)


def decision_counts(labels: Bools, decisions: Bools) -> Counts:
    """One-hot (samples, 4): caught, false alarm, missed, passed."""
    place = np.where(labels, np.where(decisions, HITS, MISSES), np.where(decisions, ALARMS, PASSES))
    return np.eye(4, dtype=np.int64)[place]


def sum_by_group(values: npt.NDArray[np.float64] | Counts, groups: Sequence[str]) -> Values:
    """Sum the rows of each group: (groups, ...), in the order of first appearance."""
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(names), *values.shape[1:]))
    np.add.at(summed, [names[name] for name in groups], values)
    return summed


def join_copies(groups: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Groups in which exact copies share a group, whatever their own groups are: a copy is no second observation.

    Args:
        groups: of the samples.
        digests: of the judged content; equal for copies.
    """
    joined = {name: name for name in groups}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    first: dict[str, str] = {}
    for name, digest in zip(groups, digests, strict=True):
        joined[root(name)] = root(first.setdefault(digest, name))
    return [root(name) for name in groups]


def independent_samples(groups: Sequence[str]) -> int:
    """Observations among samples that come in groups: the number of samples over the size of the largest group.

    A group is one observation. If one group is larger than the others, its share of the samples is what limits an
    interval (`intervals.change_bounds`), as if all were as large.
    """
    _, sizes = np.unique(np.array(groups, str), return_counts=True)
    return int(len(groups) // sizes.max()) if len(groups) else 0


def _ratio(part: Values, whole: Values) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def precision(counts: Values) -> Values:
    """Share of the samples called unsafe that are unsafe; nan without any. (..., 4) -> (...)."""
    return _ratio(counts[..., HITS], counts[..., HITS] + counts[..., ALARMS])


def recall(counts: Values) -> Values:
    """Share of the unsafe samples that are called unsafe."""
    return _ratio(counts[..., HITS], counts[..., HITS] + counts[..., MISSES])


def f1(counts: Values) -> Values:
    """Harmonic mean of precision and recall."""
    doubled = 2 * counts[..., HITS]
    return _ratio(doubled, doubled + counts[..., ALARMS] + counts[..., MISSES])


def false_positive_rate(counts: Values) -> Values:
    """Share of the safe samples that are called unsafe."""
    return _ratio(counts[..., ALARMS], counts[..., ALARMS] + counts[..., PASSES])


MEASURES = {"precision": precision, "recall": recall, "f1": f1, "fpr": false_positive_rate}

# The counts of a proportion: successes and failures.
PROPORTIONS = {"precision": (HITS, ALARMS), "recall": (HITS, MISSES), "fpr": (ALARMS, PASSES)}


@dataclass(frozen=True)
class Confusion:
    """The four counts."""

    caught: int
    false_alarms: int
    missed: int
    passed: int

    @classmethod
    def of(cls, counts: Counts) -> "Confusion":
        """From one-hot rows."""
        return cls(*(int(count) for count in counts.sum(axis=0)))
