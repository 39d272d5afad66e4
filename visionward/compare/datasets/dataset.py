"""A data set: samples, and what was left out of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from visionward.runtime.guard.samples import Sample


@dataclass(frozen=True)
class LeftOut:
    """A row that is no sample.

    Attributes:
        id: of the row.
        reason: why.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Samples of one source. Figures over several data sets are never pooled.

    Attributes:
        name: what the report calls it.
        samples: in order.
        left_out: rows that are no samples, with reasons.
        notes: what a reader of figures over it should know.
        mapping: its own categories to codes of the taxonomy; those that are missing are not mapped.
    """

    name: str
    samples: tuple[Sample, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The digest of each sample, in order; reads every image file once."""
        return tuple(sample.digest() for sample in self.samples)

    def by_digest(self) -> dict[str, Sample]:
        """One sample for each thing to judge: the same question is judged once."""
        found: dict[str, Sample] = {}
        for digest, sample in zip(self.digests, self.samples, strict=True):
            found.setdefault(digest, sample)
        return found


def with_own_names(datasets: Sequence[Dataset]) -> tuple[Dataset, ...]:
    """The data sets, numbered where two have the same name."""
    seen: Counter[str] = Counter()
    named = []
    for dataset in datasets:
        seen[dataset.name] += 1
        again = seen[dataset.name] > 1
        named.append(replace(dataset, name=f"{dataset.name} ({seen[dataset.name]})") if again else dataset)
    return tuple(named)
