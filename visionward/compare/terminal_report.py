"""The report on the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from visionward.compare import published_figures
from visionward.compare.cost import STAGES, Latency
from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.fitting_table import FittingTable, words_table
from visionward.compare.intervals import Estimate
from visionward.compare.number_text import p_text
from visionward.compare.overview import COLUMNS, class_size_text
from visionward.compare.report import Report, SetReport
from visionward.quantities import duration_text, size_text

_STYLES = {
    "worse": "red",
    "equivalent": "green",
    "better": "green",
    "undecided": "yellow",
    "other": "yellow",
    "failed": "red",
}


def terminal_report(report: Report) -> RenderableType:
    """Overview, conclusions, tables and notes per data set."""
    parts: list[RenderableType] = []
    for one in report.sets:
        parts += _set_parts(report, one)
    if report.band is not None:
        parts += [Text(report.band.text(report.margin)), Text()]
    for name, reason in report.given_up.items():
        parts.append(Text(f"{name} could not be run and is not in the figures: {reason}", style="red"))
    if report.quoted:
        parts += [_fitting(_quoted_table()), Text(published_figures.CAVEAT, style="dim")]
    return Group(*parts)


def _set_parts(report: Report, one: SetReport) -> list[RenderableType]:
    figures = one.figures
    parts: list[RenderableType] = [_overview(one)]
    parts += [Text(class_size_text(size, report.margin)) for size in one.class_sizes]
    parts += [Text(), Text(one.choice, style="bold"), Text()]
    for conclusion in one.conclusions:
        parts.append(Text(conclusion.headline, style=f"bold {_STYLES[conclusion.finding]}"))
        parts += [Padding(Text(sentence), (0, 0, 0, 2)) for sentence in conclusion.sentences]
    parts += [Text(), _figures(figures)]
    counts: dict[tuple[str | None, str], int] = {}
    for skipped in figures.skipped:
        counts[skipped.model, skipped.reason] = counts.get((skipped.model, skipped.reason), 0) + 1
    if counts:
        missing = figures.samples - figures.compared
        verb = "is" if missing == 1 else "are"
        parts.append(Text(f"{missing} of {figures.samples} samples {verb} not in the figures:", style="yellow"))
        parts += [
            Text(f"  {count} x {'' if model is None else model + ': '}{reason}")
            for (model, reason), count in list(counts.items())[:8]
        ]
    parts += [Text(f"Note: {note}", style="dim") for note in figures.notes]
    parts.append(Text())
    return parts


def _overview(one: SetReport) -> RenderableType:
    """The overview as a table; on a narrow terminal a line per model."""
    rows, lines = [], []
    for row in one.overview:
        model, *others = row.cells
        style = _STYLES.get(row.state, "")
        rows.append([Text(model), Text(others[0], style=style), *map(Text, others[1:])])
        lines.append(Text(f"{model}: {'; '.join(filter(None, others))}", style=style))
    return FittingTable(words_table(COLUMNS, ("size", "time"), rows), Group(*lines, Text()), wrap=True)


def _figures(figures: SetFigures) -> RenderableType:
    """The tables of figures, each if it fits the terminal."""
    tables = [_main_table(figures), _cost_table(figures)]
    if any(model.categories for model in figures.models):
        tables.append(_category_table(figures))
    return Group(*map(_fitting, tables))


def _fitting(table: Table) -> FittingTable:
    return FittingTable(table, Text(f"{table.title}: see report.md", style="dim"))


def _main_table(figures: SetFigures) -> Table:
    table = _table(f"{figures.name}: {figures.compared} samples ({figures.unsafe} unsafe, {figures.safe} safe)")
    for name in ("precision", "recall", "F1", "FPR", "misses", "p", "alarms", "p", "KL", "same FPR at"):
        table.add_column(name, justify="right")
    for model in figures.models:
        table.add_row(Text(model.name), *_decision_cells(model))
    return table


def _decision_cells(model: ModelFigures) -> list[str]:
    measures = [estimate_text(model.measures[name]) for name in ("precision", "recall", "f1", "fpr")]
    missed, alarms, against = str(model.confusion.missed), str(model.confusion.false_alarms), model.against
    if against is None:
        return [*measures, missed, "", alarms, "", "", ""]
    unsafe, safe = against.flips.unsafe, against.flips.safe
    return [
        *measures,
        f"{missed}\n+{unsafe.to_safe} -{unsafe.to_unsafe}",
        p_text(unsafe.decisive_p),
        f"{alarms}\n+{safe.to_unsafe} -{safe.to_safe}",
        p_text(safe.decisive_p),
        "-" if against.kl_mean.value is None else f"{against.kl_mean.value:.2g}",
        "-" if against.threshold is None else against.threshold.text,
    ]


def _cost_table(figures: SetFigures) -> Table:
    table = _table("Size and speed; times are p50 / p95")
    towers = figures.has_onnx_towers
    for name in ("text", "mmproj", *(["ONNX tower"] if towers else []), "peak memory", "loading", *STAGES):
        table.add_column("verdict" if name == "total" else name, justify="right")
    for model in figures.models:
        cost = model.cost
        sizes = (cost.text_bytes, cost.mmproj_bytes, *([cost.tower_bytes] if towers else []), cost.peak_bytes)
        table.add_row(
            Text(model.name),
            *("-" if size is None else size_text(size) for size in sizes),
            "-" if cost.load_ms is None else duration_text(cost.load_ms),
            *(_times(cost.latency.get(stage)) for stage in STAGES),
        )
    return table


def _times(latency: Latency | None) -> str:
    return "-" if latency is None else f"{duration_text(latency.p50)} / {duration_text(latency.p95)}"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    return table


def _category_table(figures: SetFigures) -> Table:
    table = Table(title="F1 by category", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("category")
    table.add_column("samples", justify="right")
    for model in figures.models:
        table.add_column(Text(model.name), justify="right")
    for index, category in enumerate(figures.models[0].categories):
        row = [estimate_text(model.categories[index].f1) for model in figures.models]
        table.add_row(category.code, str(category.support), *row)
    return table


def _quoted_table() -> Table:
    table = Table(title="Quoted from the model card", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "task", "precision", "recall", "F1", "FPR"):
        table.add_column(name, justify="left" if name in ("model", "task") else "right")
    for row in published_figures.TABLE_1:
        table.add_row(row.model, row.task, *(f"{value:.3f}" for value in (row.precision, row.recall, row.f1, row.fpr)))
    return table


def estimate_text(estimate: Estimate) -> str:
    """A figure with its interval."""
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f}\n{estimate.low:.2f}-{estimate.high:.2f}"
