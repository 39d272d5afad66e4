"""The report as one HTML page that refers to nothing outside itself."""

import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from visionward.compare import plots, published_figures
from visionward.compare.datasets import Dataset
from visionward.compare.environment_text import environment_facts
from visionward.compare.error_lists import MAX_LISTED, MAX_SKIPPED, ListedSample, compared_answers, error_lists
from visionward.compare.figures import SetFigures
from visionward.compare.intervals import Estimate
from visionward.compare.method import method_paragraphs
from visionward.compare.number_text import p_text
from visionward.compare.overview import class_size_text
from visionward.compare.report import Report, SetReport
from visionward.compare.results import ModelResults
from visionward.compare.sample_text import visible
from visionward.compare.threshold_curve import table_points
from visionward.quantities import duration_text, size_text
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample
from visionward.runtime.images.thumbnail import thumbnail

_THUMBNAIL = 160
# The space between a number and its unit, at which no line may be broken.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]B|m?s)\b|%)")


def html_report(report: Report, datasets: Sequence[Dataset], results: Sequence[ModelResults]) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    filters: dict[str, Callable[[Any], str]] = {
        "size": lambda value: "-" if value is None else size_text(value),
        "time": lambda value: "-" if value is None else duration_text(value),
        "p": p_text,
        "small": lambda value: "-" if value is None else f"{value:.2g}",
        "share": lambda value: "-" if value is None else f"{value:.3f}",
        "signed": lambda value: "-" if value is None else f"{round(value, 3) + 0.0:+.3f}",
        "interval": _interval,
        "signed_interval": _signed_interval,
        "times": _times,
        "together": lambda text: _UNIT.sub("\u00a0", text),
    }
    environment.filters |= filters
    return environment.from_string(_resource("report.html.jinja")).render(
        report=report,
        sets=[
            _set_values(report, one, dataset, results, f"s{number}")
            for number, (one, dataset) in enumerate(zip(report.sets, datasets, strict=True))
        ],
        names={category.code: category.name for category in DEFAULT_POLICY.categories},
        quoted=published_figures if report.quoted else None,
        colour=plots.colour,
        style=Markup(_resource("report.css")),  # noqa: S704 - our own file
        environment=report.environment,
        facts=() if report.environment is None else environment_facts(report.environment),
        method=method_paragraphs(report),
    )


def _resource(name: str) -> str:
    return resources.files("visionward.compare").joinpath(name).read_text(encoding="utf-8")


def _set_values(
    report: Report, one: SetReport, dataset: Dataset, results: Sequence[ModelResults], prefix: str
) -> dict[str, Any]:
    """What the template shows of a data set."""
    figures = one.figures
    answers = compared_answers(figures, dataset, results)
    lists = error_lists(answers)
    return {
        "report": one,
        "figures": figures,
        "sizes": [{"enough": size.enough, "text": class_size_text(size, report.margin)} for size in one.class_sizes],
        **_thresholds(figures, report.threshold, prefix),
        "size_plot": _drawn(plots.size_plot(figures, f"{prefix}z")),
        "time_plot": _drawn(plots.time_plot(figures, f"{prefix}t")),
        "reliability": _drawn(plots.reliability_plot(figures.models, f"{prefix}r")),
        "scatters": _scatters(figures, answers, report.threshold, prefix),
        "misses": _listed(lists.misses),
        "false_alarms": _listed(lists.false_alarms),
        "changes": _listed(lists.changes),
        "skipped": [visible(one.text) for one in figures.skipped[:MAX_SKIPPED]],
        "more_skipped": max(0, len(figures.skipped) - MAX_SKIPPED),
        "mapping": dataset.mapping,
    }


def _drawn(drawing: str) -> Markup:
    return Markup(drawing)  # noqa: S704 - our own drawing


def _thresholds(figures: SetFigures, threshold: float, prefix: str) -> dict[str, Any]:
    """The plots and the table of recall against threshold; none if no model gives probabilities."""
    models = [model for model in figures.models if model.gives_probabilities]
    if not models:
        return {"recall_plot": None}
    columns = [table_points(model.thresholds, threshold) for model in models]
    return {
        "recall_plot": _drawn(plots.threshold_plot(figures.models, "recall", threshold, f"{prefix}h")),
        "fpr_plot": _drawn(plots.threshold_plot(figures.models, "fpr", threshold, f"{prefix}f")),
        "threshold_models": [model.name for model in models],
        "threshold_rows": [{"threshold": row[0].threshold, "points": row} for row in zip(*columns, strict=True)],
    }


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _signed_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:+.3f} to {estimate.high:+.3f}"


def _times(ratio: Estimate) -> str:
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return ""
    return f"\u00d7 {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _scatters(
    figures: SetFigures, answers: Sequence[ListedSample], threshold: float, prefix: str
) -> list[tuple[str, Markup]]:
    drawn = []
    for place, model in enumerate(figures.models):
        if place == 0 or not model.gives_probabilities:
            continue
        picture = plots.score_scatter(
            [one.answers[0][1] for one in answers],
            [one.answers[place][1] for one in answers],
            [one.sample.unsafe for one in answers],
            (figures.models[0].name, model.name),
            threshold,
            f"{prefix}c{place}",
        )
        drawn.append((model.name, _drawn(picture)))
    return drawn


def _listed(samples: Sequence[ListedSample]) -> dict[str, Any]:
    shown = [
        {
            "id": visible(one.sample.id),
            "categories": ", ".join(sorted(one.sample.categories or ())),
            "tag": one.tag,
            "thumbnail": _thumbnail(one.sample),
            "answers": [
                {"model": name, "score": answer.score, "wrong": one.is_wrong(answer), "remark": one.remark(answer)}
                for name, answer in one.answers
            ],
            "texts": one.texts,
        }
        for one in samples[:MAX_LISTED]
    ]
    return {"shown": shown, "count": len(samples)}


def _thumbnail(sample: Sample) -> Markup | None:
    """The first image, small, as a data URL."""
    images = sample.conversation.images
    if not images:
        return None
    picture = thumbnail(images[0], _THUMBNAIL, quality=85)
    return None if picture is None else Markup("data:image/jpeg;base64,{}").format(picture)
