"""Flips: decisions that differ from the reference's, in each direction, with exact tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, sum_by_group

SIGNIFICANCE = 0.05
_PERMUTATIONS = 9999


@dataclass(frozen=True)
class FlipTest:
    """Flips among some samples.

    Attributes:
        count: samples.
        groups: of samples that are not independent of each other.
        to_unsafe: flips from safe (reference) to unsafe (candidate).
        to_safe: flips from unsafe to safe.
        p_value: exact McNemar test, two-sided.
        grouped_p_value: permutation test that swaps the two models for a whole group at a time. It answers the same
            question if samples of a group are not independent, for which ``p_value`` is too small. None if every
            sample is a group of its own.
        min_flips: smallest number of flips, all in one direction and each in another group, for which ``decisive_p``
            is below 0.05.
    """

    count: int
    groups: int
    to_unsafe: int
    to_safe: int
    p_value: float
    grouped_p_value: float | None
    min_flips: int

    @property
    def decisive_p(self) -> float:
        """The p-value that counts: that of the groups if there are any."""
        return self.p_value if self.grouped_p_value is None else self.grouped_p_value


@dataclass(frozen=True)
class Flips:
    """Flips by label. An unsafe sample that flips to safe is a new miss, a safe one to unsafe a new false alarm."""

    unsafe: FlipTest
    safe: FlipTest
    unlabelled: FlipTest
    all: FlipTest


def mcnemar(one: int, other: int) -> float:
    """Exact two-sided p-value of the numbers of flips in the two directions."""
    from scipy.stats import binomtest  # noqa: PLC0415 - in the extra

    return float(binomtest(one, one + other, 0.5).pvalue) if one + other else 1.0


def min_one_sided_flips() -> int:
    """The fewest flips that are significant even if all go one way: six. By group it is six groups, for 2 / 2**6."""
    count = 1
    while mcnemar(count, 0) >= SIGNIFICANCE:
        count += 1
    return count


def flip_test(reference: Bools, candidate: Bools, groups: Sequence[str]) -> FlipTest:
    """Test paired decisions."""
    to_unsafe, to_safe = int(np.sum(~reference & candidate)), int(np.sum(reference & ~candidate))
    independent = len(set(groups))
    grouped = _grouped_p_value(reference, candidate, groups) if independent < len(groups) else None
    exact = mcnemar(to_unsafe, to_safe)
    return FlipTest(len(reference), independent, to_unsafe, to_safe, exact, grouped, min_one_sided_flips())


def _grouped_p_value(reference: Bools, candidate: Bools, groups: Sequence[str]) -> float:
    from scipy.stats import permutation_test  # noqa: PLC0415 - in the extra

    sums = sum_by_group(np.stack([reference, candidate], axis=1).astype(np.int64), groups)
    sums = sums[sums[:, 0] != sums[:, 1]]
    if len(sums) < 2:
        return 1.0
    found = permutation_test(
        (sums[:, 0], sums[:, 1]),
        lambda one, other, axis: np.sum(one - other, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def flips_by_label(reference: Bools, candidate: Bools, labels: Sequence[bool | None], groups: Sequence[str]) -> Flips:
    """Flips among unsafe, safe, unlabelled and all samples."""

    def among(chosen: Sequence[bool]) -> FlipTest:
        mask = np.array(chosen, bool)
        return flip_test(reference[mask], candidate[mask], [g for g, keep in zip(groups, chosen, strict=True) if keep])

    return Flips(
        unsafe=among([label is True for label in labels]),
        safe=among([label is False for label in labels]),
        unlabelled=among([label is None for label in labels]),
        all=among([True] * len(labels)),
    )
