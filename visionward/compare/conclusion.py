"""The conclusion of a comparison in sentences."""

from dataclasses import dataclass

from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.findings import Finding, finding, is_significant
from visionward.compare.flips import SIGNIFICANCE, Flips, FlipTest
from visionward.compare.intervals import Estimate
from visionward.compare.number_text import names_text, p_text, points_text
from visionward.compare.times import exceeds_noise
from visionward.quantities import count_text, duration_text, percent_text, size_text

# Smaller differences of peak memory are not worth a sentence.
_MIN_MEMORY_CHANGE = 0.05
_HEADLINES: dict[Finding, str] = {
    "worse": "{name} is worse than {reference}",
    "equivalent": "{name} is equivalent to {reference} within {margin}",
    "undecided": "{name}: not enough samples to tell",
    "better": "{name} is better than {reference}",
    "other": "{name} is better than {reference} on one class and worse on the other",
}


@dataclass(frozen=True)
class Conclusion:
    """The conclusion for one model on one data set.

    Attributes:
        model: name of the model.
        finding: in one word.
        headline: in one line.
        sentences: the evidence.
    """

    model: str
    finding: Finding
    headline: str
    sentences: tuple[str, ...]


def conclusions(figures: SetFigures, margin: float) -> tuple[Conclusion, ...]:
    """The conclusion for every model but the reference.

    Args:
        figures: of a data set.
        margin: accepted loss of recall and accepted rise of the false-positive rate, 0 to 1.
    """
    reference = figures.models[0]
    return tuple(_conclusion(figures, reference, model, margin) for model in figures.models[1:])


def best_choice(figures: SetFigures, found: tuple[Conclusion, ...]) -> str:
    """The recommendation over all pairs: the smallest one that is equivalent or better."""
    reference = figures.models[0]
    sizes = {model.name: model.cost.total_bytes or 0 for model in figures.models if model.kind == "candidate"}
    times = {model.name: _time(model) for model in figures.models}
    good = [one.model for one in found if one.finding in ("equivalent", "better") and one.model in sizes]
    undecided = [one.model for one in found if one.finding == "undecided" and one.model in sizes]
    too_few = f"{figures.unsafe:,} unsafe and {figures.safe:,} safe samples are too few to assess"
    if good:
        smallest = min(good, key=lambda name: (sizes[name], times[name]))
        saving = f"{_size(sizes[smallest])} instead of {_size(reference.cost.total_bytes)}"
        if sizes[smallest] == reference.cost.total_bytes:
            saving = f"{duration_text(times[smallest])} instead of {duration_text(_time(reference))} for a verdict"
        choice = f"Use {smallest} ({saving}): it decides as well as {reference.name}, within the margin."
        smaller = [name for name in undecided if sizes[name] < sizes[smallest]]
        if not smaller:
            return choice
        return f"{choice} {too_few} {names_text(smaller)}, which {'is' if len(smaller) == 1 else 'are'} smaller."
    if undecided:
        return f"No recommendation yet: {too_few} {names_text(undecided)}."
    if not sizes:
        return f"No candidate was compared with {reference.name}."
    return f"Stay with {reference.name}: {names_text(list(sizes))} {'is' if len(sizes) == 1 else 'are'} worse."


def _conclusion(figures: SetFigures, reference: ModelFigures, model: ModelFigures, margin: float) -> Conclusion:
    if model.against is None:
        raise ValueError(f"{model.name} was not compared")
    found = finding(figures, model, margin)
    headline = _HEADLINES[found].format(name=model.name, reference=reference.name, margin=points_text(margin))
    sentences = [_errors(figures, reference, model), *_evidence(figures, model, found, margin)]
    if model.setting:
        twice = f"; {count_text(model.second_looks, 'sample')} judged twice" if "auto" in model.setting else ""
        sentences.append(f"Setting: {model.setting}{twice}.")
    if model.kind == "candidate":
        sentences += [*_savings(reference, model), *_recalibration(reference, model)]
    for one in (reference, model):
        if one.no_answer:
            sentences.append(
                f"{one.name} gave no answer to {one.no_answer} of {figures.compared} samples, which count as unsafe."
            )
    return Conclusion(model.name, found, headline, tuple(sentences))


def _errors(figures: SetFigures, reference: ModelFigures, model: ModelFigures) -> str:
    own, base, name = model.confusion, reference.confusion, reference.name
    sentences = []
    if figures.unsafe:
        sentences.append(f"Misses: {own.missed} of {figures.unsafe} unsafe samples ({name}: {base.missed}).")
    if figures.safe:
        sentences.append(
            f"False alarms: {own.false_alarms} of {figures.safe} safe samples ({name}: {base.false_alarms})."
        )
    if model.against is not None:
        flips = model.against.flips.all
        total = flips.to_safe + flips.to_unsafe
        sentences.append(
            f"{total} of {count_text(figures.compared, 'decision')} {'flips' if total == 1 else 'flip'}."
            if total
            else "No decision flips."
        )
    if not figures.unsafe and not figures.safe:
        sentences.append("No sample has a label: which decisions are right is unknown.")
    return " ".join(sentences)


def _evidence(figures: SetFigures, model: ModelFigures, found: Finding, margin: float) -> list[str]:
    against = model.against
    if against is None:
        return []
    recall, fpr = against.differences["recall"], against.differences["fpr"]
    tests = {"misses": (against.flips.unsafe, recall), "false alarms": (against.flips.safe, fpr)}
    labelled = {what: (test, change) for what, (test, change) in tests.items() if test.count}
    significant = {what: test for what, (test, change) in labelled.items() if is_significant(test, change)}
    doubtful = {
        what: test for what, (test, _) in labelled.items() if test.decisive_p < SIGNIFICANCE and what not in significant
    }
    others = {what: test for what, (test, _) in labelled.items() if what not in significant and what not in doubtful}
    sentences = []
    if figures.unsafe or figures.safe:
        labels = {"misses": "unsafe", "false alarms": "safe"}
        sentences += [
            f"No sample is labelled {labels[what]}: {what} are unknown." for what in tests if what not in labelled
        ]
    if significant:
        sentences.append(f"Significant change of {_tested(significant, 'and')}.")
    if doubtful:
        undone = "a group of the size of the largest one that changes the other way would undo it"
        sentences.append(f"Uncertain change of {_tested(doubtful, 'and')}: {undone}.")
    if others:
        sentences.append(f"No significant change of {_tested(others, 'or')}.")
    sentences += _intervals(recall, fpr)
    if len(labelled) == len(tests) and found == "undecided":
        sentences += _too_few(against.flips, margin)
    return sentences


def _too_few(flips: Flips, margin: float) -> list[str]:
    """The smallest change that the smaller class can show, if it is larger than the margin."""
    label, test = min((("unsafe", flips.unsafe), ("safe", flips.safe)), key=lambda one: one[1].groups)
    if test.groups >= test.min_flips / margin:
        return []
    grouped = test.grouped_p_value is not None
    what, unit = (f"group of {label} samples", "groups") if grouped else (f"{label} sample", "flips")
    several = f"groups of {label} samples" if grouped else f"{label} samples"
    counted = count_text(test.groups, what, several)
    verb = "is" if test.groups == 1 else "are"
    if test.min_flips > test.groups:
        return [f"{counted} {verb} too few to detect any change: it takes {test.min_flips} {unit}."]
    smallest = f"{percent_text(test.min_flips / test.groups)} ({test.min_flips} {unit})"
    margin_text = points_text(margin)
    return [
        f"{counted} {verb} too few for a margin of {margin_text}: only a change of at least {smallest} is detectable."
    ]


def _tested(tests: dict[str, FlipTest], conjunction: str) -> str:
    return f" {conjunction} ".join(f"{what} ({_p(test)})" for what, test in tests.items())


def _intervals(recall: Estimate, fpr: Estimate) -> list[str]:
    parts = [
        f"{name} {100 * one.low:+.1f} to {100 * one.high:+.1f}"
        for name, one in (("recall", recall), ("false-positive rate", fpr))
        if one.low is not None and one.high is not None
    ]
    return [f"95 % intervals of the change, in points: {', '.join(parts)}."] if parts else []


def _savings(reference: ModelFigures, model: ModelFigures) -> list[str]:
    own, base = model.cost, reference.cost
    sentences = []
    if own.total_bytes and base.total_bytes:
        sentences.append(f"Size: {size_text(own.total_bytes)} instead of {size_text(base.total_bytes)}.")
    if own.peak_bytes and base.peak_bytes:
        change = abs(own.peak_bytes - base.peak_bytes) / max(own.peak_bytes, base.peak_bytes)
        if change > _MIN_MEMORY_CHANGE:
            sentences.append(f"Peak memory: {size_text(own.peak_bytes)} instead of {size_text(base.peak_bytes)}.")
    times = own.latency.get("total"), base.latency.get("total")
    if times[0] and times[1] and model.against is not None:
        text = f"Time of a verdict: {duration_text(times[0].p50)} instead of {duration_text(times[1].p50)}"
        if model.against.held_up:
            sentences.append(f"{text}, not comparable: other programs held up one of the two models.")
        elif exceeds_noise(model.against.time_ratio):
            sentences.append(f"{text}.")
        else:
            sentences.append(f"{text}, which is within the measurement noise.")
    return sentences


def _recalibration(reference: ModelFigures, model: ModelFigures) -> list[str]:
    found = None if model.against is None else model.against.threshold
    if found is None or found.unchanged:
        return []
    recall = "" if found.recall is None else f" and recall {found.recall:.3f}"
    rates = f"false-positive rate {found.fpr:.3f}{recall}"
    return [
        f"With --threshold {found.text} it raises no more false alarms than {reference.name} ({rates}).",
        "This threshold is fitted to these samples.",
    ]


def _p(test: FlipTest) -> str:
    name = "exact McNemar p" if test.grouped_p_value is None else "group permutation p"
    text = p_text(test.decisive_p)
    return f"{name} {text}" if text.startswith("<") else f"{name} = {text}"


def _time(model: ModelFigures) -> float:
    """Milliseconds of a verdict in the median."""
    latency = model.cost.latency.get("total")
    return 0.0 if latency is None else latency.p50


def _size(count: int | None) -> str:
    return "unknown size" if count is None else size_text(count)
