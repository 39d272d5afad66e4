"""What a user should conclude, in words; and what these samples cannot decide."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.flips import SIGNIFICANCE, Flips, FlipTest
from visionward.compare.intervals import Estimate
from visionward.compare.times import exceeds_noise
from visionward.quantities import duration_text, size_text

Finding: TypeAlias = Literal["worse", "equivalent", "undecided", "better", "other"]

_HEADLINES = {
    "worse": "{name} decides worse than {reference}",
    "equivalent": "{name} decides as {reference} does, within {margin}",
    "undecided": "{name}: these samples cannot decide",
    "better": "{name} decides better than {reference} on these samples",
    "other": "{name}: the decisions differ both ways",
}


@dataclass(frozen=True)
class Conclusion:
    """What follows for one model on one data set.

    Attributes:
        model: its name.
        finding: in one word.
        headline: in one line.
        sentences: what it rests on.
    """

    model: str
    finding: Finding
    headline: str
    sentences: tuple[str, ...]


def conclusions(figures: SetFigures, margin: float) -> tuple[Conclusion, ...]:
    """For every model but the reference.

    Args:
        figures: of a data set.
        margin: the loss in recall, and the gain in false-positive rate, that a user would put up with.
    """
    reference = figures.models[0]
    return tuple(_conclusion(figures, reference, model, margin) for model in figures.models[1:])


def best_choice(figures: SetFigures, found: tuple[Conclusion, ...]) -> str:
    """One or two sentences over all pairs: the smallest that can be recommended."""
    reference = figures.models[0]
    sizes = {model.name: model.cost.total_bytes or 0 for model in figures.models if model.kind == "candidate"}
    good = [one.model for one in found if one.finding in ("equivalent", "better") and one.model in sizes]
    doubtful = [one.model for one in found if one.finding in ("undecided", "other") and one.model in sizes]
    counts = f"{figures.unsafe} unsafe and {figures.safe} safe samples"
    if good:
        smallest = min(good, key=lambda name: sizes[name])
        saving = f", {_size(sizes[smallest])} in place of {_size(reference.cost.total_bytes)}"
        smaller = [name for name in doubtful if sizes[name] < sizes[smallest]]
        doubt = f" Of {_listed(smaller)}, which would be smaller, {counts} cannot tell." if smaller else ""
        return f"Take {smallest}{saving}: it decides as {reference.name} does, within the margin.{doubt}"
    if doubtful:
        return f"Nothing can be recommended yet: {counts} cannot tell {_listed(doubtful)} from {reference.name}."
    if not sizes:
        return f"No candidate was compared with {reference.name}."
    return f"Stay with {reference.name}: {_listed(list(sizes))} decided worse."


def _conclusion(figures: SetFigures, reference: ModelFigures, model: ModelFigures, margin: float) -> Conclusion:
    if model.against is None:
        raise ValueError(f"{model.name} was not compared")
    finding = _finding(figures, model, margin)
    headline = _HEADLINES[finding].format(name=model.name, reference=reference.name, margin=points(margin))
    sentences = [*_what_changed(figures, reference, model), *_evidence(figures, model, margin)]
    if model.kind == "candidate":
        sentences += [*_savings(reference, model), *_recalibration(reference, model)]
    for one in (reference, model):
        if one.no_answer:
            share = _of(one.no_answer, figures.compared)
            sentences.append(f"{one.name} did not really answer {share} samples, which count as unsafe.")
    return Conclusion(model.name, finding, headline, tuple(sentences))


def _finding(figures: SetFigures, model: ModelFigures, margin: float) -> Finding:
    against = model.against
    if against is None or not figures.unsafe or not figures.safe:
        return "undecided"
    missed, alarms = against.flips.unsafe, against.flips.safe
    recall, fpr = against.differences["recall"], against.differences["fpr"]
    told = told_apart(missed, recall), told_apart(alarms, fpr)
    worse = (told[0] and missed.to_safe > missed.to_unsafe) or (told[1] and alarms.to_unsafe > alarms.to_safe)
    better = (told[0] and missed.to_unsafe > missed.to_safe) or (told[1] and alarms.to_safe > alarms.to_unsafe)
    if worse:
        return "other" if better else "worse"
    if _at_least(recall.low, -margin) and fpr.high is not None and fpr.high <= margin:
        return "better" if better else "equivalent"
    return "undecided"


def told_apart(test: FlipTest, change: Estimate) -> bool:
    """Whether chance does not explain a change.

    Both the test and the interval have to say so. Of independent samples the test alone would do: where it is
    significant, the interval excludes zero. Swapping the models for a whole group supposes that a group could as well
    have changed the other way, which is not so where, say, single decisions are gained and whole groups are lost.
    """
    excluded = change.low is not None and change.high is not None and not change.low <= 0 <= change.high
    return test.decisive_p < SIGNIFICANCE and excluded


def _at_least(value: float | None, least: float) -> bool:
    return value is not None and value >= least


def _what_changed(figures: SetFigures, reference: ModelFigures, model: ModelFigures) -> list[str]:
    missed = model.confusion.missed - reference.confusion.missed
    alarms = model.confusion.false_alarms - reference.confusion.false_alarms
    parts = []
    if figures.unsafe:
        parts.append(f"misses {_change(missed, 'unsafe sample', f'of {figures.unsafe}')}")
    if figures.safe:
        parts.append(f"raises {_change(alarms, 'false alarm', f'on {figures.safe} safe samples')}")
    flips = model.against.flips.all if model.against is not None else None
    total = 0 if flips is None else flips.to_safe + flips.to_unsafe
    verb = "flips" if total == 1 else "flip"
    changed = f"{_of(total, figures.compared)} decisions {verb}." if total else "No decision flips."
    if not parts:
        return [f"{changed} No sample is labelled, so nobody can say which of them are right."]
    return [
        f"It {' and '.join(parts)} than {reference.name}. {changed}"
        if missed or alarms
        else f"It {_same(figures)} as {reference.name}. {changed}"
    ]


def _same(figures: SetFigures) -> str:
    if figures.unsafe and figures.safe:
        return "misses as many unsafe samples and raises as many false alarms"
    return "misses as many unsafe samples" if figures.unsafe else "raises as many false alarms"


def _change(count: int, what: str, whole: str) -> str:
    amount = f"{abs(count)} {'more' if count > 0 else 'fewer'}" if count else "no more"
    return f"{amount} {what}{'' if abs(count) == 1 else 's'} ({whole})"


def _evidence(figures: SetFigures, model: ModelFigures, margin: float) -> list[str]:
    against = model.against
    if against is None:
        return []
    recall, fpr = against.differences["recall"], against.differences["fpr"]
    tests = {"misses": (against.flips.unsafe, recall), "false alarms": (against.flips.safe, fpr)}
    labelled = {what: (test, change) for what, (test, change) in tests.items() if test.count}
    beyond = {what: test for what, (test, change) in labelled.items() if told_apart(test, change)}
    maybe = {
        what: test for what, (test, _) in labelled.items() if test.decisive_p < SIGNIFICANCE and what not in beyond
    }
    within = {what: test for what, (test, _) in labelled.items() if what not in beyond and what not in maybe}
    sentences = [f"Nothing can be said of {what}: no sample is labelled so." for what in tests if what not in labelled]
    if beyond:
        sentences.append(f"Chance does not explain the change in {_tested(beyond)}.")
    if maybe:
        undone = "it could be undone by a group as large as the largest one that changes the other way"
        sentences.append(f"Chance may explain the change in {_tested(maybe)}: {undone}.")
    if within:
        sentences.append(f"There is no evidence of a difference in {_tested(within)}.")
    limits = _limits(recall, fpr)
    if limits:
        sentences.append(limits)
    if len(labelled) == len(tests) and _finding(figures, model, margin) == "undecided":
        sentences += _too_few(against.flips, margin)
    return sentences


def _too_few(flips: Flips, margin: float) -> list[str]:
    """That even the smallest change that can be told from chance is a large one."""
    what, test = min((("unsafe", flips.unsafe), ("safe", flips.safe)), key=lambda one: one[1].groups)
    least = test.min_flips
    if test.groups >= least / margin:
        return []
    share = f", {least / test.groups:.0%} of them" if least <= test.groups else ", more than there are"
    one = test.groups == 1
    shows = f"{'shows' if one else 'show'} large differences only"
    if test.grouped_p_value is None:
        samples = f"{test.groups} {what} sample{'' if one else 's'}"
        seen = f"{samples} {shows}: it takes {least} flips one way to be seen"
    else:
        groups = f"{test.groups} group{'' if one else 's'} of {what} samples"
        seen = f"{groups} {shows}: it takes at least {least} groups that flip one way to be seen"
    return [f"{seen}{share}."]


def _tested(tests: dict[str, FlipTest]) -> str:
    return " or ".join(f"{what} ({_p(test)})" for what, test in tests.items())


def _limits(recall: Estimate, fpr: Estimate) -> str:
    parts = []
    if recall.low is not None and recall.high is not None:
        parts.append(f"recall changes by {_range(recall)}")
    if fpr.low is not None and fpr.high is not None:
        parts.append(f"the false-positive rate by {_range(fpr)}")
    return f"With 95 % confidence {' and '.join(parts)} points." if parts else ""


def _range(estimate: Estimate) -> str:
    return f"{100 * (estimate.low or 0.0):+.1f} to {100 * (estimate.high or 0.0):+.1f}"


def _savings(reference: ModelFigures, model: ModelFigures) -> list[str]:
    mine, theirs = model.cost, reference.cost
    parts = []
    if mine.total_bytes and theirs.total_bytes:
        parts.append(f"the files take {_size(mine.total_bytes)} in place of {_size(theirs.total_bytes)}")
    if mine.peak_bytes and theirs.peak_bytes and _differ(mine.peak_bytes, theirs.peak_bytes):
        parts.append(f"memory peaks at {_size(mine.peak_bytes)} in place of {_size(theirs.peak_bytes)}")
    times = mine.latency.get("total"), theirs.latency.get("total")
    if times[0] and times[1] and model.against is not None:
        both = duration_text(times[0].p50), duration_text(times[1].p50)
        if model.against.held_up:
            why = "because other programs held up one of the two models"
            parts.append(f"the times of a verdict ({both[0]} and {both[1]}) cannot be compared, {why}")
        elif exceeds_noise(model.against.time_ratio):
            parts.append(f"a verdict takes {both[0]} in place of {both[1]}")
        else:
            parts.append(f"a verdict takes as long, within the noise of these measurements ({both[0]} and {both[1]})")
    text = ", ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _differ(one: float, other: float) -> bool:
    """Whether two amounts of memory differ by enough to speak of it."""
    return abs(one - other) > 0.05 * max(one, other)


def _recalibration(reference: ModelFigures, model: ModelFigures) -> list[str]:
    found = None if model.against is None else model.against.threshold
    if found is None or found.unchanged:
        return []
    recall = "" if found.recall is None else f", recall {found.recall:.3f}"
    gain = f"(false-positive rate {found.fpr:.3f}{recall}); that is fitted to these very samples."
    return [f"With a --threshold of {found.text} it has no more false alarms than {reference.name} {gain}"]


def _p(test: FlipTest) -> str:
    name = "exact McNemar p" if test.grouped_p_value is None else "permutation of groups, p"
    return f"{name} {_equals(test.decisive_p)}"


def _equals(value: float) -> str:
    text = p_text(value)
    return text if text.startswith("<") else f"= {text}"


def p_text(value: float) -> str:
    """A p-value as people write it."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def points(share: float) -> str:
    """A share in percentage points."""
    return f"{100 * share:.2g} points"


def _size(count: int | None) -> str:
    return "?" if count is None else size_text(count)


def _of(count: int, total: int) -> str:
    return f"{count} of {total}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
