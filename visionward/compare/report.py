"""The report: figures and conclusions per data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from visionward.compare.conclusion import Conclusion, best_choice, conclusions
from visionward.compare.datasets import Dataset
from visionward.compare.environment import Environment
from visionward.compare.figures import SetFigures, set_figures
from visionward.compare.learnt_band import BandFinding
from visionward.compare.overview import OverviewRow, overview
from visionward.compare.results import ModelResults
from visionward.compare.sample_size import ClassSize, class_sizes
from visionward.errors import DataError
from visionward.machine.packages import installed_version


@dataclass(frozen=True)
class SetReport:
    """One data set.

    Attributes:
        figures: figures of every model.
        conclusions: for every model but the reference.
        choice: the recommendation.
        overview: the table that the report begins with.
        class_sizes: independent samples of each class, and the number that the margin needs.
    """

    figures: SetFigures
    conclusions: tuple[Conclusion, ...]
    choice: str
    overview: tuple[OverviewRow, ...]
    class_sizes: tuple[ClassSize, ...]


@dataclass(frozen=True)
class Report:
    """The report of a comparison.

    Attributes:
        created: time in UTC.
        version: version of visionward.
        threshold: P(unsafe) from which on a verdict is unsafe.
        margin: accepted loss of recall and accepted rise of the false-positive rate, 0 to 1.
        sets: one report per data set.
        given_up: models that could not be run, with reasons; they are not in the figures.
        quoted: whether to show the model card's figures.
        environment: machine, programs and inputs; None if it is not known.
        band: what a candidate with ``max_tiles`` 1 says of ``--max-tiles auto``; None without one.
    """

    created: str
    version: str
    threshold: float
    margin: float
    sets: tuple[SetReport, ...]
    given_up: dict[str, str]
    quoted: bool
    environment: Environment | None = None
    band: BandFinding | None = None


def make_report(
    datasets: Sequence[Dataset],
    results: Sequence[ModelResults],
    *,
    threshold: float,
    margin: float,
    show_quoted: bool = False,
    environment: Environment | None = None,
    band: BandFinding | None = None,
) -> Report:
    """Compute all figures and conclusions.

    Raises:
        DataError: if no model judged any sample.
    """
    given_up = {result.model.name: result.given_up for result in results if result.given_up is not None}
    usable = [results[0], *(result for result in results[1:] if result.given_up is None)]
    sets = []
    for dataset in datasets:
        figures = set_figures(dataset, usable, threshold)
        if not figures.compared:
            first = figures.skipped[0].reason if figures.skipped else "there are none"
            raise DataError(f"{dataset.name}: no sample was judged by every model (the first: {first})")
        found = conclusions(figures, margin)
        rows = overview(figures, found, margin, given_up)
        choice = best_choice(figures, found)
        sets.append(SetReport(figures, found, choice, rows, class_sizes(figures, margin)))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    version = installed_version("visionward") or "(not installed)"
    return Report(now, version, threshold, margin, tuple(sets), given_up, show_quoted, environment, band)
