"""The report as Markdown: the same facts as the page, without plots and pictures."""

from collections.abc import Iterable, Sequence

from visionward.compare import published_figures
from visionward.compare.cost import STAGES
from visionward.compare.datasets import Dataset
from visionward.compare.environment import Environment
from visionward.compare.environment_text import environment_facts
from visionward.compare.error_lists import MAX_LISTED, MAX_SKIPPED, ListedSample, compared_answers, error_lists
from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.intervals import Estimate
from visionward.compare.method import method_paragraphs
from visionward.compare.number_text import p_text
from visionward.compare.overview import COLUMNS, class_size_text
from visionward.compare.report import Report, SetReport
from visionward.compare.results import ModelResults
from visionward.compare.sample_text import markdown_code, markdown_text
from visionward.compare.threshold_curve import table_points
from visionward.quantities import duration_text, size_text
from visionward.runtime.guard.policy import DEFAULT_POLICY

_MEASURES = {"precision": "precision", "recall": "recall", "F1": "f1", "false-positive rate": "fpr"}


def markdown_report(report: Report, datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> str:
    """The text of the file."""
    reference = report.sets[0].figures.models[0].name
    parts = [
        f"# Accuracy, size and speed against {markdown_text(reference)}",
        f"visionward {report.version}, {report.created}, threshold {report.threshold}",
    ]
    for one, dataset in zip(report.sets, datasets, strict=True):
        if len(report.sets) > 1:
            parts.append(f"# {markdown_text(one.figures.name)}")
        parts += _set_parts(report, one, dataset, results)
    if report.band is not None:
        parts += ["## One tile first", markdown_text(report.band.text(report.margin))]
    if report.quoted:
        parts += _quoted_parts()
    if report.environment is not None:
        parts += _environment_parts(report.environment)
    parts += ["## How it was measured", _list(map(markdown_text, method_paragraphs(report)))]
    return "\n\n".join(parts) + "\n"


def _set_parts(report: Report, one: SetReport, dataset: Dataset, results: Sequence[ModelResults]) -> list[str]:
    figures = one.figures
    lists = error_lists(compared_answers(figures, dataset, results))
    parts = [
        _table(COLUMNS, [[_cell(row.model), *map(markdown_text, row.cells[1:])] for row in one.overview]),
        _list(class_size_text(size, report.margin) for size in one.class_sizes),
        "## Conclusion",
        markdown_text(one.choice),
    ]
    for found in one.conclusions:
        parts.append(f"**{markdown_text(found.headline)}.** {markdown_text(' '.join(found.sentences))}")
    for name, reason in report.given_up.items():
        parts.append(
            f"{markdown_code(name)} could not be run: {markdown_code(reason, None)}. It is not in the figures."
        )
    parts += ["## Decisions", _counts(figures), _decisions(figures)]
    if len(figures.models) > 1:
        parts.append(_against(figures))
    parts += _threshold_parts(figures, report.threshold)
    parts += ["## Size and speed", _costs(figures)]
    parts += ["## Misses", f"{len(lists.misses)} of {figures.unsafe} unsafe samples.", *_listed(lists.misses)]
    parts += ["## False alarms", f"{len(lists.false_alarms)} of {figures.safe} safe samples."]
    parts += _listed(lists.false_alarms)
    if lists.changes:
        parts += ["## Changes without a label", f"{len(lists.changes)} of {figures.unlabelled} samples."]
        parts += _listed(lists.changes)
    if figures.models[0].categories:
        parts += ["## F1 by category", _categories(figures, quoted=report.quoted)]
    parts += ["## Numerical differences", _differences(figures)]
    if figures.skipped:
        parts += [
            "## Samples not in the figures",
            _list(markdown_code(skipped.text) for skipped in figures.skipped[:MAX_SKIPPED]),
        ]
        if len(figures.skipped) > MAX_SKIPPED:
            parts.append(f"and {len(figures.skipped) - MAX_SKIPPED} more in samples.csv")
    if figures.notes:
        parts += [f"## About {markdown_text(figures.name)}", _list(map(markdown_text, figures.notes))]
    if dataset.mapping:
        rows = [[_cell(name), ", ".join(codes) or "not mapped"] for name, codes in dataset.mapping.items()]
        parts.append(_table(("its category", "of the taxonomy"), rows))
    return parts


def _counts(figures: SetFigures) -> str:
    labels = f"{figures.unsafe} unsafe, {figures.safe} safe, {figures.unlabelled} without a label"
    return (
        f"{markdown_text(figures.name)}: {figures.compared} of {figures.samples} samples were judged by every model "
        f"({labels}), in {figures.groups} groups. In brackets: 95 % confidence intervals."
    )


def _decisions(figures: SetFigures) -> str:
    rows = [
        [
            _cell(model.name),
            *(_estimate(model.measures[name]) for name in _MEASURES.values()),
            *map(str, (model.confusion.missed, model.confusion.false_alarms, model.no_answer)),
        ]
        for model in figures.models
    ]
    return _table(("model", *_MEASURES, "missed", "false alarms", "no answer"), rows)


def _against(figures: SetFigures) -> str:
    heading = ("model", "misses new / gone", "p", "false alarms new / gone", "p", "change of recall", "change of FPR")
    rows = []
    for model in figures.models[1:]:
        if model.against is None:
            continue
        unsafe, safe = model.against.flips.unsafe, model.against.flips.safe
        rows.append(
            [
                _cell(model.name),
                f"{unsafe.to_safe} / {unsafe.to_unsafe}",
                markdown_text(p_text(unsafe.decisive_p)),
                f"{safe.to_unsafe} / {safe.to_safe}",
                markdown_text(p_text(safe.decisive_p)),
                *(_estimate(model.against.differences[name], "+.3f") for name in ("recall", "fpr", "f1")),
                _small(model.against.kl_mean.value),
                "-" if model.against.threshold is None else model.against.threshold.text,
            ]
        )
    return _table((*heading, "change of F1", "mean KL, nats", "thresholds for the same FPR"), rows)


def _threshold_parts(figures: SetFigures, in_force: float) -> list[str]:
    models = [model for model in figures.models if model.gives_probabilities]
    if not models:
        return []
    columns = [table_points(model.thresholds, in_force) for model in models]
    rows = [
        [str(row[0].threshold), *(_share(value) for point in row for value in (point.recall, point.fpr))]
        for row in zip(*columns, strict=True)
    ]
    heading = [f"{_cell(model.name)} {what}" for model in models for what in ("recall", "FPR")]
    return ["## Recall against threshold", _table(("threshold", *heading), rows)]


def _costs(figures: SetFigures) -> str:
    stages = ["verdict" if stage == "total" else stage for stage in STAGES]
    heading = ("model", "device", "text file", "mmproj file", "ONNX tower", "peak memory", "loading")
    rows = []
    for model in figures.models:
        cost = model.cost
        sizes = (cost.text_bytes, cost.mmproj_bytes, cost.tower_bytes, cost.peak_bytes)
        latencies = [cost.latency.get(stage) for stage in STAGES]
        rows.append(
            [
                _cell(model.name),
                "-" if cost.device is None else markdown_text(f"{cost.device}, {cost.threads} threads"),
                *("-" if size is None else size_text(size) for size in sizes),
                "-" if cost.load_ms is None else duration_text(cost.load_ms),
                *("-" if one is None else f"{duration_text(one.p50)} / {duration_text(one.p95)}" for one in latencies),
                "" if model.against is None else _estimate(model.against.time_ratio, ".2f"),
            ]
        )
    return _table((*heading, *(f"{stage} p50 / p95" for stage in stages), "verdict, ratio"), rows)


def _listed(samples: Sequence[ListedSample]) -> list[str]:
    lines = []
    for one in samples[:MAX_LISTED]:
        named = [", ".join(sorted(one.sample.categories or ())), one.tag]
        answers = [f"{markdown_code(name)} {_share(answer.score)} {one.remark(answer)}" for name, answer in one.answers]
        lines.append("; ".join([" ".join([markdown_code(one.sample.id), *filter(None, named)]), *answers]))
        lines[-1] += "".join(f"\n  - {role}: {markdown_code(text, None)}" for role, text in one.texts)
    more = len(samples) - MAX_LISTED
    return [*([_list(lines)] if lines else []), *([f"and {more} more in samples.csv"] if more > 0 else [])]


def _categories(figures: SetFigures, *, quoted: bool) -> str:
    names = {category.code: category.name for category in DEFAULT_POLICY.categories}
    rows = []
    for place, category in enumerate(figures.models[0].categories):
        row = [f"{category.code} {names.get(category.code, '')}".strip(), str(category.support)]
        row += [_estimate(model.categories[place].f1) for model in figures.models]
        rows.append([*row, _share(published_figures.TABLE_2.get(category.code))] if quoted else row)
    heading = ("category", "samples", *(_cell(model.name) for model in figures.models))
    return _table((*heading, "quoted") if quoted else heading, rows)


def _differences(figures: SetFigures) -> str:
    heading = ["model", "average precision", "calibration error", "Brier score", "KL, 99th percentile"]
    heading += ["change of P(unsafe), mean", "mean distance", "largest distance"]
    heading += ["logits, relative error", "features, relative error"]
    return _table(heading, [_difference_row(model) for model in figures.models])


def _difference_row(model: ModelFigures) -> list[str]:
    reliability, against = model.reliability, model.against
    row = [_cell(model.name), _share(model.average_precision.value)]
    row += ["-", "-"] if reliability is None else [_share(reliability.expected_error), _share(reliability.brier)]
    if against is None:
        return [*row, *[""] * 6]
    changes = (against.score_change_abs, against.score_change_max)
    row += [_small(against.kl_p99), f"{against.score_change_mean:+.3f}", *map(_share, changes)]
    return [*row, _small(against.logit_error), _small(against.feature_error)]


def _quoted_parts() -> list[str]:
    rows = [
        [row.model, row.task, *map(_share, (row.precision, row.recall, row.f1, row.fpr))]
        for row in published_figures.TABLE_1
    ]
    table = _table(("model", "task", *_MEASURES), rows)
    source = f"Source: {published_figures.SOURCE}."
    return ["## Quoted from the model card", published_figures.CAVEAT, table, source]


def _environment_parts(environment: Environment) -> list[str]:
    files = [
        [_cell(file.model), _cell(file.file), size_text(file.nbytes), f"`{file.sha256}`"] for file in environment.files
    ]
    datasets = [[_cell(one.name), str(one.samples), f"`{one.sha256}`"] for one in environment.datasets]
    return [
        "## Environment",
        _list(f"{name}: {markdown_text(value)}" for name, value in environment_facts(environment)),
        *([] if environment.command is None else [markdown_code(environment.command, None)]),
        _table(("model", "file", "size", "SHA-256"), files),
        _table(("data set", "samples", "SHA-256 of texts, images, labels, categories and groups"), datasets),
    ]


def _cell(text: str) -> str:
    return markdown_code(text, cell=True)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _estimate(estimate: Estimate, form: str = ".3f") -> str:
    if estimate.value is None:
        return "-"
    value = format(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({format(estimate.low, form)} to {format(estimate.high, form)})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
