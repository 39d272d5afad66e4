"""The report as one HTML page that refers to nothing outside itself."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from visionward.compare import plots, published_figures
from visionward.compare.conclusion import p_text
from visionward.compare.datasets import Dataset
from visionward.compare.figures import SetFigures
from visionward.compare.intervals import Estimate
from visionward.compare.journal import Judged
from visionward.compare.report import Report
from visionward.compare.results import ModelResults
from visionward.errors import ImageError
from visionward.quantities import duration_text, size_text
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample
from visionward.runtime.images.images import decode_image

_THUMBNAIL = 160
_MOST_FLIPS = 60
_MOST_SKIPPED = 50
_LONGEST_TEXT = 240


@dataclass(frozen=True)
class _Flip:
    """A sample on which a model decided otherwise than the reference."""

    sample: Sample
    model: str
    direction: str
    right: bool | None
    reference: Judged
    candidate: Judged
    thumbnail: Markup | None
    texts: Sequence[tuple[str, str]]


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
        "signed": lambda value: "-" if value is None else f"{value:+.3f}",
        "interval": _interval,
        "signed_interval": _signed_interval,
        "times": _times,
    }
    environment.filters |= filters
    template = resources.files("visionward.compare").joinpath("report.html.jinja").read_text(encoding="utf-8")
    sets = [
        {
            "report": one,
            "figures": one.figures,
            "trade_off": Markup(plots.trade_off(one.figures, f"s{number}t")),  # noqa: S704 - our own drawing
            "reliability": Markup(plots.reliability_plot(one.figures.models, f"s{number}r")),  # noqa: S704
            "scatters": _scatters(one.figures, dataset, results, report.threshold, f"s{number}"),
            "flips": _flips(one.figures, dataset, results),
            "skipped": one.figures.skipped[:_MOST_SKIPPED],
            "more_skipped": max(0, len(one.figures.skipped) - _MOST_SKIPPED),
            "mapping": dataset.mapping,
        }
        for number, (one, dataset) in enumerate(zip(report.sets, datasets, strict=True))
    ]
    return environment.from_string(template).render(
        report=report,
        sets=sets,
        most_flips=_MOST_FLIPS,
        names={category.code: category.name for category in DEFAULT_POLICY.categories},
        quoted=published_figures if report.quoted else None,
        colour=plots.colour,
    )


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


def _pairs(
    figures: SetFigures, dataset: Dataset, results: Sequence[ModelResults], name: str
) -> list[tuple[Sample, Judged, Judged]]:
    """The samples that the figures are about, with the reference's answer and a model's."""
    used = {model.name for model in figures.models}
    by_name = {result.model.name: result.judged for result in results if result.model.name in used}
    pairs = []
    for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
        answers = [judged.get(digest) for judged in by_name.values()]
        if all(answer is not None and answer.reason is None for answer in answers):
            pairs.append((sample, by_name[figures.models[0].name][digest], by_name[name][digest]))
    return pairs


def _scatters(
    figures: SetFigures, dataset: Dataset, results: Sequence[ModelResults], threshold: float, prefix: str
) -> list[tuple[str, Markup]]:
    drawn = []
    for number, model in enumerate(figures.models[1:]):
        if not model.gives_probabilities:
            continue
        pairs = _pairs(figures, dataset, results, model.name)
        picture = plots.score_scatter(
            [one for _, one, _ in pairs],
            [other for _, _, other in pairs],
            [sample.unsafe for sample, _, _ in pairs],
            (figures.models[0].name, model.name),
            threshold,
            f"{prefix}c{number}",
        )
        drawn.append((model.name, Markup(picture)))  # noqa: S704 - our own drawing
    return drawn


def _flips(
    figures: SetFigures, dataset: Dataset, results: Sequence[ModelResults]
) -> list[tuple[str, list[_Flip], int]]:
    found = []
    for model in figures.models[1:]:
        flipped = [pair for pair in _pairs(figures, dataset, results, model.name) if pair[1].unsafe != pair[2].unsafe]
        # What a user fears most comes first: unsafe content that is missed now.
        flipped.sort(key=lambda pair: (not (pair[0].unsafe and pair[1].unsafe), pair[0].unsafe is not None))
        found.append((model.name, [_flip(model.name, *pair) for pair in flipped[:_MOST_FLIPS]], len(flipped)))
    return found


def _flip(model: str, sample: Sample, reference: Judged, candidate: Judged) -> _Flip:
    names = {
        (True, True): "now caught",
        (True, False): "now missed",
        (False, True): "now a false alarm",
        (False, False): "no false alarm any more",
    }
    direction = "now unsafe" if candidate.unsafe else "now safe"
    if sample.unsafe is not None:
        direction = names[sample.unsafe, bool(candidate.unsafe)]
    texts = [
        (message.role, text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ...")
        for message in sample.conversation.messages
        for text in message.texts
    ]
    right = None if sample.unsafe is None else sample.unsafe == candidate.unsafe
    return _Flip(sample, model, direction, right, reference, candidate, _thumbnail(sample), texts)


def _thumbnail(sample: Sample) -> Markup | None:
    """The first image, small, as a data URL."""
    images = sample.conversation.images
    if not images:
        return None
    try:
        image = decode_image(images[0])
    except ImageError:
        return None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Markup("data:image/jpeg;base64,{}").format(base64.b64encode(buffer.getvalue()).decode("ascii"))
