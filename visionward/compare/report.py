"""The report: figures and conclusions of every data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from visionward.compare.conclusion import Conclusion, best_choice, conclusions
from visionward.compare.datasets import Dataset
from visionward.compare.environment import Environment
from visionward.compare.figures import SetFigures, set_figures
from visionward.compare.overview import OverviewRow, overview
from visionward.compare.results import ModelResults
from visionward.compare.sample_size import ClassSize, class_sizes
from visionward.errors import DataError
from visionward.machine.packages import installed_version


@dataclass(frozen=True)
class SetReport:
    """One data set.

    Attributes:
        figures: of every model on it.
        conclusions: for every model but the reference.
        choice: in one sentence.
        overview: the table that the report begins with.
        class_sizes: how many independent samples each label has, and how many the margin takes.
    """

    figures: SetFigures
    conclusions: tuple[Conclusion, ...]
    choice: str
    overview: tuple[OverviewRow, ...]
    class_sizes: tuple[ClassSize, ...]


@dataclass(frozen=True)
class Report:
    """A whole comparison.

    Attributes:
        created: when, in UTC.
        version: of visionward.
        threshold: unsafe from this score on.
        margin: the loss that counts as none.
        sets: never pooled.
        given_up: models that could not be run, and why; they are in no figure.
        quoted: show the model card's figures.
        environment: machine, programs and inputs; None where it is not known.
    """

    created: str
    version: str
    threshold: float
    margin: float
    sets: tuple[SetReport, ...]
    given_up: dict[str, str]
    quoted: bool
    environment: Environment | None = None


def make_report(
    datasets: Sequence[Dataset],
    results: Sequence[ModelResults],
    *,
    threshold: float,
    margin: float,
    show_quoted: bool = False,
    environment: Environment | None = None,
) -> Report:
    """All figures and conclusions.

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
            raise DataError(f"{dataset.name}: no sample was judged by every model; the first: {first}")
        found = conclusions(figures, margin)
        rows = overview(figures, found, margin, given_up)
        choice = best_choice(figures, found)
        sets.append(SetReport(figures, found, choice, rows, class_sizes(figures, margin)))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    version = installed_version("visionward") or "(not installed)"
    return Report(now, version, threshold, margin, tuple(sets), given_up, show_quoted, environment)
