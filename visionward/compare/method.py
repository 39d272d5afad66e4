"""How a comparison measures, for readers of its report."""

from visionward.compare.intervals import CONFIDENCE
from visionward.compare.number_text import points_text
from visionward.compare.report import Report
from visionward.compare.times import BETWEEN_RUNS
from visionward.names import MIN_ANSWER_MASS
from visionward.quantities import percent_text

# A paragraph per method.
_METHOD = """
Each model ran in a process of its own, one sample at a time. Peak memory is that process's, including the weights that
it maps.

Intervals ({confidence}): bias-corrected bootstrap over groups of samples; exact binomial bounds if everything or
nothing was right. Changes of recall and false-positive rate: Fay and Feuer's interval for weighted sums of rare events,
the net change of a group being one event, and Zou and Donner's rule for the difference of gains and losses.

Independent samples: the number of samples over the size of the largest group, because a group is one observation. The
number that a margin of {margin} needs is the smallest with which the interval of a change of zero stays within the
margin.

The ratio of two models' times is measured on the same samples and has an interval by batch means. Times differ if the
whole interval is more than {noise} from 1. Models ran one after the other: if other programs took more than a tenth of
the processor time of one of them, times are not compared.

Within {margin}: the intervals of both changes, of recall and of the false-positive rate, stay within that margin on the
side of more errors.

KL: divergence of the first next-token distribution over all rows of the head, the reference first.

If a model puts less than {mass} of the probability on safe and unsafe, or its answer cannot be read, it gave no answer,
and the sample counts as unsafe.

Nothing is corrected for the number of candidates and data sets.
"""
_BAND = """
Band for --max-tiles auto: Wilks's two-sided tolerance interval of the scores with one tile of the samples whose
decision changes with all tiles; a group of samples counts once, with its smallest and its largest score.
"""


def method_paragraphs(report: Report) -> tuple[str, ...]:
    """One paragraph per method."""
    text = (
        (_METHOD if report.band is None else f"{_METHOD}{_BAND}")
        .strip()
        .format(
            confidence=percent_text(CONFIDENCE),
            margin=points_text(report.margin),
            noise=percent_text(BETWEEN_RUNS),
            mass=percent_text(MIN_ANSWER_MASS),
        )
    )
    return tuple(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
