"""Whether the times of two models differ by more than the measurement noise."""

import math
from collections.abc import Sequence

import numpy as np

from visionward.compare.intervals import CONFIDENCE, Estimate

_BATCHES = 10
# Two runs of one program differ by this much, although the times of each agree: clock rates, caches, other programs.
BETWEEN_RUNS = 0.05
# A model that had this much less processor time per second than another was held up by other programs.
_HELD_UP = 0.1


def ratio_estimate(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Ratio of two models' times on the same samples, with an interval by batch means.

    A disturbance lasts longer than a sample, so that neighbours are not independent. The samples are therefore split
    into ten batches in the order of judging, and Student's t is applied to the batches' medians of the logarithm of the
    ratio (Law, Simulation Modeling and Analysis, chapter 9: the method of batch means).

    Args:
        pairs: milliseconds of the one and of the other model, per sample.
    """
    from scipy.stats import t  # noqa: PLC0415 - in the extra

    timed = np.array([pair for pair in pairs if min(pair) > 0], np.float64)
    if not len(timed):
        return Estimate(None)
    logs = np.log(timed[:, 0] / timed[:, 1])
    medians = np.array([np.median(batch) for batch in np.array_split(logs, min(_BATCHES, len(logs)))])
    middle = float(medians.mean())
    if len(medians) < 2:
        return Estimate(math.exp(middle))
    spread = float(medians.std(ddof=1)) / math.sqrt(len(medians))
    reach = spread * float(t.ppf((1 + CONFIDENCE) / 2, len(medians) - 1))
    return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), "batch means")


def exceeds_noise(ratio: Estimate) -> bool:
    """Whether the whole interval is further from 1 than two runs of one model differ."""
    if ratio.low is None or ratio.high is None:
        return False
    return ratio.low > 1 + BETWEEN_RUNS or ratio.high < 1 / (1 + BETWEEN_RUNS)


def equally_free(one: float | None, other: float | None) -> bool:
    """Whether two models on the CPU had the same processor time per second.

    If not, other programs took processor time from one of them, perhaps during its whole run, which the spread of its
    times does not show.

    Args:
        one: processor time per second of the one; None if it is not known.
        other: that of the other.
    """
    return one is None or other is None or min(one, other) >= (1 - _HELD_UP) * max(one, other)
