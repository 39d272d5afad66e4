"""How many independent samples a class needs, so that a candidate without more errors is seen to have none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from visionward.compare.figures import SetFigures
from visionward.compare.flips import FlipTest
from visionward.compare.intervals import CONFIDENCE

Label: TypeAlias = Literal["unsafe", "safe"]


@dataclass(frozen=True)
class ClassSize:
    """The samples of one label, and how many a margin takes.

    Attributes:
        label: ``unsafe`` (for recall) or ``safe`` (for the false-positive rate).
        samples: samples of this label.
        independent: observations among them; see `decisions.independent_samples`.
        needed: independent samples that the margin takes if no decision changes.
        needed_as_changed: the same at the share of changed decisions of the candidate that changed most of them;
            None if none changed.
    """

    label: Label
    samples: int
    independent: int
    needed: int
    needed_as_changed: int | None

    @property
    def enough(self) -> bool:
        """Whether there are as many as the margin takes at the least."""
        return self.independent >= self.needed


def class_sizes(figures: SetFigures, margin: float) -> tuple[ClassSize, ...]:
    """The unsafe and the safe samples of a set, and how many of each a margin takes.

    Args:
        figures: of the set.
        margin: accepted loss of recall and accepted rise of the false-positive rate, 0 to 1.
    """
    flips = [model.against.flips for model in figures.models if model.against is not None]
    return (
        _class_size("unsafe", figures.unsafe, figures.independent["unsafe"], [one.unsafe for one in flips], margin),
        _class_size("safe", figures.safe, figures.independent["safe"], [one.safe for one in flips], margin),
    )


def _class_size(label: Label, samples: int, independent: int, tests: Sequence[FlipTest], margin: float) -> ClassSize:
    changed = max(((test.to_safe + test.to_unsafe) / test.count for test in tests if test.count), default=0.0)
    return ClassSize(
        label=label,
        samples=samples,
        independent=independent,
        needed=samples_needed(margin),
        needed_as_changed=samples_needed(margin, changed) if changed else None,
    )


def samples_needed(margin: float, changed: float = 0.0) -> int:
    """The fewest independent samples with which the interval of a change of zero stays within a margin.

    Args:
        margin: half the width of the 95 % interval, 0 to 1.
        changed: share of decisions that change, half of them each way.
    """
    high = 1
    while half_width(high, changed) > margin:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if half_width(middle, changed) > margin:
            low = middle
        else:
            high = middle
    return high


def half_width(samples: int, changed: float) -> float:
    """Half the width of `intervals.change_bounds` for independent samples that change as often one way as the other."""
    from scipy.stats import chi2  # noqa: PLC0415 - in the extra

    tail = (1 - CONFIDENCE) / 2
    events = changed * samples / 2
    low = float(chi2.ppf(tail, 2 * events)) / 2 if events else 0.0
    high = float(chi2.ppf(1 - tail, 2 * (events + 1))) / 2
    return math.hypot(high - events, events - low) / samples
