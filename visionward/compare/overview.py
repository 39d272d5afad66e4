"""The table that a report begins with: decision, flips, size and time of every candidate."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from visionward.compare.conclusion import Conclusion
from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.findings import Finding
from visionward.compare.number_text import points_text
from visionward.compare.sample_size import ClassSize
from visionward.compare.times import exceeds_noise
from visionward.quantities import count_text, duration_text, percent_text, size_text

RowState: TypeAlias = Finding | Literal["reference", "failed"]

COLUMNS = ("candidate", "decision", "flips", "size", "time")
_DECISIONS: dict[Finding, str] = {
    "worse": "worse",
    "equivalent": "equivalent within {margin}",
    "undecided": "not enough samples to tell",
    "better": "better",
    "other": "better and worse",
}


@dataclass(frozen=True)
class OverviewRow:
    """One model, as text.

    Attributes:
        model: its name.
        state: the finding, ``reference``, or ``failed`` for a model that could not be run.
        decision: the finding in words.
        flips: decisions that differ from the reference's, and what they are.
        size: of all files, and their share of the reference's.
        time: of a verdict in the median, and its ratio to the reference's.
    """

    model: str
    state: RowState
    decision: str
    flips: str
    size: str
    time: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of ``COLUMNS``."""
        return self.model, self.decision, self.flips, self.size, self.time


def overview(
    figures: SetFigures, found: tuple[Conclusion, ...], margin: float, given_up: dict[str, str]
) -> tuple[OverviewRow, ...]:
    """The reference first, then every other model, those that could not be run last."""
    reference = figures.models[0]
    rows = [OverviewRow(reference.name, "reference", "reference", "", _size(reference), _time(reference))]
    for model, conclusion in zip(figures.models[1:], found, strict=True):
        decision = _DECISIONS[conclusion.finding].format(margin=points_text(margin))
        size = _size(model, reference)
        rows.append(OverviewRow(model.name, conclusion.finding, decision, _flips(model), size, _time(model)))
    rows += [OverviewRow(name, "failed", "could not be run", "", "", "") for name in given_up]
    return tuple(rows)


def class_size_text(size: ClassSize, margin: float) -> str:
    """A class in one sentence: how many samples there are, and how many the margin takes."""
    grouped = "" if size.independent == size.samples else f" in {size.samples} samples"
    text = (
        f"{size.label}: {count_text(size.independent, 'independent sample')}{grouped}; "
        f"a margin of {points_text(margin)} needs at least {size.needed:,}"
    )
    if size.needed_as_changed is not None:
        text += f", and {size.needed_as_changed:,} if as many decisions change as here"
    return f"{text}."


def _flips(model: ModelFigures) -> str:
    if model.against is None:
        return ""
    flips = model.against.flips
    total = flips.all.to_safe + flips.all.to_unsafe
    parts = [
        (flips.unsafe.to_safe, "new miss", "new misses"),
        (flips.safe.to_unsafe, "new false alarm", "new false alarms"),
        (flips.unsafe.to_unsafe + flips.safe.to_safe, "corrected", "corrected"),
        (flips.unlabelled.to_unsafe + flips.unlabelled.to_safe, "without a label", "without a label"),
    ]
    named = [count_text(count, one, several) for count, one, several in parts if count]
    if not named:
        return "none"
    return named[0] if len(named) == 1 else f"{total:,} ({', '.join(named)})"


def _size(model: ModelFigures, reference: ModelFigures | None = None) -> str:
    size = model.cost.total_bytes
    if size is None:
        return ""
    whole = None if reference is None else reference.cost.total_bytes
    return f"{size_text(size)} ({percent_text(size / whole)})" if whole else size_text(size)


def _time(model: ModelFigures) -> str:
    latency = model.cost.latency.get("total")
    if latency is None:
        return ""
    text = duration_text(latency.p50)
    if model.against is None:
        return text
    if model.against.held_up:
        return f"{text} (not comparable)"
    ratio = model.against.time_ratio
    if ratio.value is None:
        return text
    return f"{text} ({percent_text(ratio.value)})" if exceeds_noise(ratio) else f"{text} (no difference)"
