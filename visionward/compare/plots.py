"""The report's plots, as SVG text that stands in the page itself."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np

from visionward.compare.figures import ModelFigures, SetFigures
from visionward.compare.journal import Judged
from visionward.machine.extras import require

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#30343b",
    "xtick.color": "#5a606b",
    "ytick.color": "#5a606b",
    "axes.grid": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_SIZE_UNITS = (("GB", 1e9), ("MB", 1e6))
_TIME_UNITS = (("s", 1e3), ("ms", 1.0))
_MARKERS = {"reference": "D", "candidate": "o", "endpoint": "s"}


def colour(place: int) -> str:
    """The colour of the model at this place of the list."""
    return COLOURS[place % len(COLOURS)]


def _figure(width: float, height: float, columns: int = 1) -> Any:
    """A figure and its axes, without the state that pyplot keeps."""
    figures = require("matplotlib.figure", "matplotlib.backends.backend_svg")
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, sharey=True)[0]


def _svg(figure: Any, name: str) -> str:
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Ids must be unique in the whole page.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" ', r"\1\2", text, count=1)


def _drawing(draw: Any) -> Any:
    """Draw in our style, whatever the user's matplotlibrc says."""

    def styled(*args: Any) -> str:
        matplotlib = require("matplotlib")
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": "visionward"}):
            return str(draw(*args))

    return styled


@_drawing
def trade_off(figures: SetFigures, name: str) -> str:
    """File size against F1, and time of a verdict against F1."""
    figure, axes = _figure(8.6, 3.3, 2)
    shown = [(place, model) for place, model in enumerate(figures.models) if model.measures["f1"].value is not None]
    sizes: Sequence[float | None] = [model.cost.total_bytes for _, model in shown]
    totals = [model.cost.latency.get("total") for _, model in shown]
    times: Sequence[float | None] = [None if total is None else total.p50 for total in totals]
    panels = (("size of both files", sizes, _SIZE_UNITS), ("time of a verdict (median)", times, _TIME_UNITS))
    for axis, (label, values, units) in zip(axes, panels, strict=True):
        largest = max((value for value in values if value is not None), default=0)
        unit, factor = next(((unit, factor) for unit, factor in units if largest >= factor), units[-1])
        for (place, model), value in zip(shown, values, strict=True):
            if value is not None:
                _error_bar(axis, value / factor, model, place)
        axis.set_xlabel(f"{label}, {unit}")
        axis.margins(x=0.12)
        axis.set_xlim(left=0)
    axes[0].set_ylabel("F1, with 95 % interval")
    return _with_legend(figure, axes, name, room=110)


def _error_bar(axis: Any, x: float, model: ModelFigures, place: int) -> None:
    f1 = model.measures["f1"]
    value = f1.value or 0.0
    low, high = (value if end is None else end for end in (f1.low, f1.high))
    axis.errorbar(
        [x],
        [value],
        yerr=[[value - low], [high - value]],
        fmt=_MARKERS[model.kind],
        color=colour(place),
        capsize=3,
        markersize=7,
        elinewidth=1.2,
        label=model.name,
    )


def _with_legend(figure: Any, axes: Any, name: str, room: int = 52) -> str:
    """Finish a drawing; ``room`` is the width of its legend in characters."""
    found: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found.update(zip(labels, handles, strict=True))
    if found:
        columns = max(1, min(len(found), room // (8 + max(map(len, found)))))
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns, frameon=False)
    return _svg(figure, name)


@_drawing
def score_scatter(
    reference: Sequence[Judged],
    candidate: Sequence[Judged],
    labels: Sequence[bool | None],
    names: tuple[str, str],
    threshold: float,
    name: str,
) -> str:
    """P(unsafe) of a candidate against the reference's; where they decide differently stands out."""
    figure, (axis,) = _figure(4.2, 4.1)
    x = np.array([one.score or 0.0 for one in reference])
    y = np.array([one.score or 0.0 for one in candidate])
    flipped = np.array([one.unsafe != other.unsafe for one, other in zip(reference, candidate, strict=True)])
    axis.plot([0, 1], [0, 1], color="#b6bbc4", linewidth=1, zorder=1)
    axis.axhline(threshold, color="#b6bbc4", linewidth=0.8, linestyle=":")
    axis.axvline(threshold, color="#b6bbc4", linewidth=0.8, linestyle=":")
    for label, shade, text in ((True, "#d55e00", "unsafe"), (False, "#0072b2", "safe"), (None, "#7a7f88", "no label")):
        mask = np.array([one is label for one in labels])
        if mask.any():
            axis.scatter(x[mask], y[mask], s=18, color=shade, alpha=0.55, linewidths=0, label=text, zorder=2)
    if flipped.any():
        axis.scatter(
            x[flipped],
            y[flipped],
            s=62,
            facecolors="none",
            edgecolors="#000000",
            linewidths=1.1,
            label="flipped",
            zorder=3,
        )
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_xlabel(f"P(unsafe) of {names[0]}")
    axis.set_ylabel(f"P(unsafe) of {names[1]}")
    return _with_legend(figure, [axis], name)


@_drawing
def reliability_plot(models: Sequence[ModelFigures], name: str) -> str:
    """Mean score of each bin against the share that is unsafe."""
    figure, (axis,) = _figure(4.2, 4.1)
    axis.plot([0, 1], [0, 1], color="#b6bbc4", linewidth=1)
    for place, model in enumerate(models):
        if model.reliability is None or not model.gives_probabilities:
            continue
        bins = model.reliability.bins
        largest = max(one.count for one in bins)
        axis.plot([one.score for one in bins], [one.unsafe for one in bins], color=colour(place), linewidth=1.2)
        axis.scatter(
            [one.score for one in bins],
            [one.unsafe for one in bins],
            s=[14 + 70 * one.count / largest for one in bins],
            color=colour(place),
            alpha=0.8,
            linewidths=0,
            label=model.name,
        )
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axis.set_xlabel("mean P(unsafe) of a bin")
    axis.set_ylabel("share labelled unsafe")
    return _with_legend(figure, [axis], name)
