"""A data set: samples, and rows that were left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from visionward.runtime.guard.samples import Sample


@dataclass(frozen=True)
class LeftOut:
    """A row that was left out.

    Attributes:
        id: id of the row.
        reason: the reason.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Samples of one source. Figures are never pooled over data sets.

    Attributes:
        name: its name in the report.
        samples: the samples, in order.
        left_out: rows that were left out, with reasons.
        notes: notes for readers of its figures.
        mapping: its own categories to category codes; others are not mapped.
    """

    name: str
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The digest of each sample, in order. Every image file is read once."""
        return tuple(sample.digest() for sample in self.samples)

    def by_digest(self) -> dict[str, Sample]:
        """Digest to sample: exact copies are judged once."""
        found: dict[str, Sample] = {}
        for digest, sample in zip(self.digests, self.samples, strict=True):
            found.setdefault(digest, sample)
        return found


def with_own_names(datasets: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """The data sets with unique names: a number is added to a name that occurs again."""
    seen: Counter[str] = Counter()
    named = []
    for dataset in datasets:
        seen[dataset.name] += 1
        again = seen[dataset.name] > 1
        named.append(replace(dataset, name=f"{dataset.name} ({seen[dataset.name]})") if again else dataset)
    return tuple(named)
