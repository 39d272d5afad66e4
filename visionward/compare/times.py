"""Whether one model is faster than another, or the measurements merely differ."""

import math
from collections.abc import Sequence

import numpy as np

from visionward.compare.intervals import CONFIDENCE, Estimate

_BATCHES = 10
# What two runs of one program differ by although the times of each agree: clock rates, caches, what else runs.
BETWEEN_RUNS = 0.05
# A model that had so much less processor time a second than another was held up by other programs.
_HELD_UP = 0.1


def ratio_estimate(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Ratio of two models' times on the same samples, with an interval by batch means.

    What disturbs a measurement lasts longer than a sample, so that neighbours are not independent: the samples are cut
    into ten batches in the order in which they were judged, and their medians of the logarithm of the ratio are what
    Student's t is applied to (Law, Simulation Modeling and Analysis, chapter 9: the method of batch means).

    Args:
        pairs: milliseconds of the one and of the other on each sample.
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
    """Whether the whole interval is further from 1 than two runs of one model may be."""
    if ratio.low is None or ratio.high is None:
        return False
    return ratio.low > 1 + BETWEEN_RUNS or ratio.high < 1 / (1 + BETWEEN_RUNS)


def equally_free(one: float | None, other: float | None) -> bool:
    """Whether two models that compute on the CPU had the same processor time a second.

    If not, other programs took some of it from one of them, for as long as its whole run perhaps, which the spread of
    its times does not show.

    Args:
        one: processors that the one had; None where it is not known.
        other: those of the other.
    """
    return one is None or other is None or min(one, other) >= (1 - _HELD_UP) * max(one, other)
