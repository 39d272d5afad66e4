"""The plots of the report, as SVG text inside the page."""

import re
import warnings
from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any, Literal

import numpy as np

from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.journal import Judged
from visionward.compare.sample_text import visible
from visionward.machine.extras import require

# Okabe and Ito's colours, which colour-blind readers can tell apart; the page has lighter ones for dark screens.
# Pure black is not written into the SVG, and so could not be replaced.
COLOURS = ("#000001", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK, _TICKS, _AXES, _GRID, _GUIDE = "#30343b", "#5a606b", "#8a8f98", "#e6e8ec", "#b6bbc4"
_UNSAFE, _SAFE, _UNLABELLED = "#d55e01", "#0072b3", "#7a7f88"
# Every colour that a plot is drawn with, and the variable of the page's style sheet that replaces it.
_VARIABLES = {
    **{colour: f"--series-{place}" for place, colour in enumerate(COLOURS)},
    _INK: "--ink",
    _TICKS: "--soft",
    _AXES: "--axis",
    _GRID: "--grid",
    _GUIDE: "--guide",
    _UNSAFE: "--unsafe",
    _SAFE: "--safe",
    _UNLABELLED: "--unlabelled",
}
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _AXES,
    "axes.labelcolor": _INK,
    "xtick.color": _TICKS,
    "ytick.color": _TICKS,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    # Names of files are no formulas.
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_SIZE_UNITS = (("GB", 1e9), ("MB", 1e6))
_TIME_UNITS = (("s", 1e3), ("ms", 1.0))
_MARKERS = {"reference": "D", "candidate": "o", "endpoint": "s"}
# Lines that lie on each other must still be seen.
_LINES = ("-", "--", "-.", ":")
_LEGEND_CHARACTERS = 52
_MAX_NAME = 32


def colour(place: int) -> str:
    """The style sheet's variable for the colour of the model at this place of the list."""
    return f"var({_VARIABLES[_series(place)]})"


def _short(name: str) -> str:
    """A name that fits beside an axis, as a label that matplotlib draws."""
    shown = visible(name, None)
    if len(shown) > _MAX_NAME:
        shown = f"{shown[: _MAX_NAME - 1]}\u2026"
    # Labels that begin with an underscore are left out of legends.
    return f" {shown}" if shown.startswith("_") else shown


def _series(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _figure(width: float = 4.2, height: float = 3.3) -> Any:
    """A figure and its axes, without the state that pyplot keeps."""
    figures = require("matplotlib.figure", "matplotlib.backends.backend_svg")
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any, name: str, label: str) -> str:
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(?<=[: ])#[0-9a-f]{6}\b", _variable, text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    # Ids must be unique in the whole page.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" ', r"\1\2", text, count=1)


def _variable(found: re.Match[str]) -> str:
    name = _VARIABLES.get(found[0])
    return found[0] if name is None else f"var({name})"


def _drawing(draw: Any) -> Any:
    """Draw in our style, independent of the user's matplotlibrc."""

    def styled(*args: Any) -> str:
        matplotlib = require("matplotlib")
        with (
            matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": "visionward"}),
            warnings.catch_warnings(),
        ):
            # Characters that the font lacks are drawn as boxes; the tables have them.
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            return str(draw(*args))

    return styled


@_drawing
def size_plot(figures: SetFigures, name: str) -> str:
    """Size of all files against F1."""
    sizes = [model.cost.total_bytes for model in figures.models]
    return _f1_plot(figures, sizes, "size of all files", _SIZE_UNITS, name)


@_drawing
def time_plot(figures: SetFigures, name: str) -> str:
    """Time of a verdict against F1."""
    totals = [model.cost.latency.get("total") for model in figures.models]
    times = [None if total is None else total.p50 for total in totals]
    return _f1_plot(figures, times, "time of a verdict (median)", _TIME_UNITS, name)


def _f1_plot(
    figures: SetFigures, values: Sequence[float | None], label: str, units: Sequence[tuple[str, float]], name: str
) -> str:
    figure, axis = _figure()
    largest = max((value for value in values if value is not None), default=0)
    unit, factor = next(((unit, factor) for unit, factor in units if largest >= factor), units[-1])
    for place, (model, value) in enumerate(zip(figures.models, values, strict=True)):
        if value is not None and model.measures["f1"].value is not None:
            _error_bar(axis, value / factor, model, place)
    axis.set_xlabel(f"{label}, {unit}")
    axis.set_ylabel("F1, with 95 % interval")
    axis.margins(x=0.12)
    axis.set_xlim(left=0)
    return _with_legend(figure, axis, name)


def _error_bar(axis: Any, x: float, model: ModelFigures, place: int) -> None:
    f1 = model.measures["f1"]
    value = f1.value or 0.0
    low, high = (value if end is None else end for end in (f1.low, f1.high))
    axis.errorbar(
        [x],
        [value],
        yerr=[[value - low], [high - value]],
        fmt=_MARKERS[model.kind],
        color=_series(place),
        capsize=3,
        markersize=7,
        elinewidth=1.2,
        label=_short(model.name),
    )


@_drawing
def threshold_plot(models: Sequence[ModelFigures], measure: Literal["recall", "fpr"], chosen: float, name: str) -> str:
    """Recall, or the false-positive rate, at every threshold."""
    figure, axis = _figure()
    for place, model in enumerate(models):
        points = [(point.threshold, getattr(point, measure)) for point in model.thresholds]
        known = [(threshold, value) for threshold, value in points if value is not None]
        if known and model.gives_probabilities:
            axis.plot(
                *zip(*known, strict=True),
                color=_series(place),
                linestyle=_LINES[place % len(_LINES)],
                linewidth=1.6,
                label=_short(model.name),
            )
    axis.axvline(chosen, color=_GUIDE, linewidth=1, linestyle=":")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel("threshold")
    axis.set_ylabel({"recall": "recall", "fpr": "false-positive rate"}[measure])
    return _with_legend(figure, axis, name)


def _with_legend(figure: Any, axis: Any, name: str) -> str:
    """Finish a drawing."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        columns = max(1, min(len(handles), _LEGEND_CHARACTERS // (8 + max(map(len, labels)))))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    return _svg(figure, name, f"{axis.get_ylabel()} against {axis.get_xlabel()}")


@_drawing
def score_scatter(
    reference: Sequence[Judged],
    candidate: Sequence[Judged],
    labels: Sequence[bool | None],
    names: tuple[str, str],
    threshold: float,
    name: str,
) -> str:
    """P(unsafe) of a candidate against the reference's; flips are circled."""
    figure, axis = _figure(4.2, 4.1)
    x = np.array([one.score or 0.0 for one in reference])
    y = np.array([one.score or 0.0 for one in candidate])
    flipped = np.array([one.unsafe != other.unsafe for one, other in zip(reference, candidate, strict=True)])
    axis.plot([0, 1], [0, 1], color=_GUIDE, linewidth=1, zorder=1)
    axis.axhline(threshold, color=_GUIDE, linewidth=0.8, linestyle=":")
    axis.axvline(threshold, color=_GUIDE, linewidth=0.8, linestyle=":")
    for label, shade, text in ((True, _UNSAFE, "unsafe"), (False, _SAFE, "safe"), (None, _UNLABELLED, "no label")):
        mask = np.array([one is label for one in labels])
        if mask.any():
            axis.scatter(x[mask], y[mask], s=18, color=shade, alpha=0.55, linewidths=0, label=text, zorder=2)
    if flipped.any():
        axis.scatter(
            x[flipped],
            y[flipped],
            s=62,
            facecolors="none",
            edgecolors=_INK,
            linewidths=1.1,
            label="flipped",
            zorder=3,
        )
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_xlabel(f"P(unsafe) of {_short(names[0])}")
    axis.set_ylabel(f"P(unsafe) of {_short(names[1])}")
    return _with_legend(figure, axis, name)


@_drawing
def reliability_plot(models: Sequence[ModelFigures], name: str) -> str:
    """Share of unsafe samples against the mean score, per bin."""
    figure, axis = _figure(4.2, 4.1)
    axis.plot([0, 1], [0, 1], color=_GUIDE, linewidth=1)
    for place, model in enumerate(models):
        if model.reliability is None or not model.gives_probabilities:
            continue
        bins = model.reliability.bins
        largest = max(one.count for one in bins)
        axis.plot([one.score for one in bins], [one.unsafe for one in bins], color=_series(place), linewidth=1.2)
        axis.scatter(
            [one.score for one in bins],
            [one.unsafe for one in bins],
            s=[14 + 70 * one.count / largest for one in bins],
            color=_series(place),
            alpha=0.8,
            linewidths=0,
            label=_short(model.name),
        )
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_xlabel("mean P(unsafe) of a bin")
    axis.set_ylabel("share labelled unsafe")
    return _with_legend(figure, axis, name)
