"""Learning the band of ``--max-tiles auto`` from samples that were judged with one tile and with all tiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionward.compare.datasets import Dataset
from visionward.compare.decisions import join_copies
from visionward.compare.intervals import CONFIDENCE
from visionward.compare.models import GuardFiles
from visionward.compare.number_text import points_text
from visionward.compare.results import ModelResults
from visionward.compare.settings import GuardSettings
from visionward.formats.file_hash import file_hash
from visionward.formats.tile_band import LearntFrom, TileBand
from visionward.quantities import count_text, percent_text


@dataclass(frozen=True)
class BandFinding:
    """What the samples say of a first look with one tile.

    Attributes:
        candidate: name of the model that judged with one tile.
        samples: samples whose images take more than one tile, which are the only ones that count.
        groups: of samples that are not independent of each other, in the smallest data set.
        changed: samples that one tile decides otherwise than all tiles.
        needed: groups of a data set that the margin needs.
        max_rate: with 95 % confidence, no larger share of the decisions changes with this band.
        band: None if there are too few samples.
    """

    candidate: str
    samples: int
    groups: int
    changed: int
    needed: int
    max_rate: float
    band: TileBand | None

    def text(self, margin: float) -> str:
        """The finding in a few sentences."""
        groups = count_text(self.groups, "independent group")
        if self.band is None:
            return (
                f"No band for --max-tiles auto: {groups} of samples with more than one tile are too few. A margin of "
                f"{points_text(margin)} needs {self.needed:,}, and groups of equal size."
            )
        return (
            f"Band for --max-tiles auto: {self.band.low:.3g} to {self.band.high:.3g}, in band.json. "
            f"Of {count_text(self.samples, 'sample')} with more than one tile, in {groups}, one tile decides "
            f"{self.changed} otherwise than all tiles; their scores are in the band. With {percent_text(CONFIDENCE)} "
            f"confidence, at most {100 * self.max_rate:.2g} % of the decisions on such images change."
        )


@dataclass(frozen=True)
class _Learnt:
    low: float
    high: float
    samples: int
    changed: int
    groups: int
    max_rate: float


def learn_band(
    datasets: Sequence[Dataset], results: Sequence[ModelResults], settings: GuardSettings, margin: float
) -> BandFinding | None:
    """The band from the first candidate that is the reference with ``max_tiles`` 1; None if there is none.

    The band covers every sample that one tile decides otherwise than all tiles. For a new image the change is a
    number: the score if its decision changes, else the threshold. The band reaches from the smallest to the largest of
    these numbers, and so is a two-sided tolerance interval, whose coverage is known whatever the distribution: Wilks,
    Determination of sample sizes for setting tolerance limits, Annals of Mathematical Statistics 12 (1941) 91-96. It
    holds for distributions with ties too: Scheffe and Tukey, Non-parametric estimation, the same 16 (1945) 187-192.

    Samples come in groups. A group counts once, with the smallest and the largest of its numbers, and the bound is for
    a sample of a group as large as the largest. With several data sets, the band covers the changes of all, and the
    bound holds for each of them.

    Args:
        datasets: the samples.
        results: of all models, the reference first.
        settings: of all models.
        margin: accepted share of changed decisions, 0 to 1.

    Raises:
        ModelFileError: if a file cannot be read.
    """
    reference = results[0]
    if not isinstance(reference.model, GuardFiles) or reference.model.max_tiles is not None:
        return None
    one_tile = [result for result in results[1:] if _is_one_tile(result, reference.model)]
    if not one_tile:
        return None
    candidate = one_tile[0]
    found = [_learn(dataset, reference, candidate, settings.threshold) for dataset in datasets]
    learnt = [one for one in found if one.samples]
    max_rate = max((one.max_rate for one in learnt), default=1.0)
    samples, changed = sum(one.samples for one in learnt), sum(one.changed for one in learnt)
    band = None
    if max_rate <= margin:
        learnt_from = LearntFrom(
            text=file_hash(reference.model.text),
            mmproj=file_hash(reference.model.mmproj),
            exported_tower=reference.model.tower is not None,
            policy=settings.policy.digest,
            threshold=settings.threshold,
            samples=samples,
            changed=changed,
            max_rate=max_rate,
        )
        band = TileBand(min(one.low for one in learnt), max(one.high for one in learnt), learnt_from)
    groups = min((one.groups for one in learnt), default=0)
    return BandFinding(candidate.model.name, samples, groups, changed, groups_needed(margin), max_rate, band)


def _is_one_tile(result: ModelResults, reference: GuardFiles) -> bool:
    model = result.model
    return (
        isinstance(model, GuardFiles)
        and model.max_tiles == 1
        and result.given_up is None
        and [path.resolve() for path in model.files] == [path.resolve() for path in reference.files]
    )


def _learn(dataset: Dataset, reference: ModelResults, candidate: ModelResults, threshold: float) -> _Learnt:
    kept, scores, changed = [], [], 0
    for index, digest in enumerate(dataset.digests):
        whole, one = reference.judged.get(digest), candidate.judged.get(digest)
        if whole is None or one is None or whole.unsafe is None or one.unsafe is None or whole.tiles <= one.tiles:
            continue
        kept.append(index)
        # Without an answer there is a second look, whatever the band.
        if whole.unsafe != one.unsafe and not one.no_answer and one.score is not None:
            changed += 1
            scores.append(one.score)
    groups = join_copies([dataset.samples[i].group for i in kept], [dataset.digests[i] for i in kept])
    _, sizes = np.unique(np.array(groups, str), return_counts=True)
    return _Learnt(
        low=min([threshold, *scores]),
        high=max([threshold, *scores]),
        samples=len(kept),
        changed=changed,
        groups=len(sizes),
        max_rate=min(1.0, max_changed_rate(len(sizes)) * float(sizes.max() / sizes.mean())) if len(sizes) else 1.0,
    )


def max_changed_rate(groups: int) -> float:
    """Upper bound, with 95 % confidence, of the share of a population outside the range of ``groups`` observations.

    The share inside the range has the distribution Beta(groups - 1, 2) if it is continuous (Wilks 1941), and is
    larger otherwise.
    """
    from scipy.stats import beta  # noqa: PLC0415 - in the extra

    return 1.0 if groups < 2 else float(1 - beta.ppf(1 - CONFIDENCE, groups - 1, 2))


def groups_needed(rate: float) -> int:
    """The smallest number of groups of equal size for which `max_changed_rate` is at most ``rate``."""
    low, high = 1, 2
    while max_changed_rate(high) > rate:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if max_changed_rate(middle) <= rate else (middle, high)
    return high
