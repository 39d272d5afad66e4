"""A whole comparison as one call."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visionward.compare.datasets import Dataset
from visionward.compare.environment import environment, hashed_files
from visionward.compare.judging import judge_all
from visionward.compare.learnt_band import learn_band
from visionward.compare.plan import ComparisonPlan
from visionward.compare.report import Report, make_report
from visionward.compare.report_files import write_report
from visionward.compare.results import ModelResults
from visionward.machine.extras import require
from visionward.progress import OnProgress


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        report: figures and conclusions per data set.
        datasets: the samples.
        results: every model's answers, the reference's first.
    """

    report: Report
    datasets: tuple[Dataset, ...]
    results: tuple[ModelResults, ...]

    def write(self, folder: Path) -> None:
        """Write report.html, report.md, report.json, samples.csv and, if one was learnt, band.json into a folder.

        Raises:
            OutputError: if the folder cannot be written, or has a file of one of these names that no comparison wrote.
            MissingExtraError: if a library of the extra ``compare`` is missing.
        """
        write_report(folder, self.report, self.datasets, self.results)


def run(plan: ComparisonPlan, on_progress: OnProgress | None = None) -> Comparison:
    """Judge every sample with every model, and compare the models with the reference.

    No file is written outside ``plan.work``. Notes (which model is opened, what is resumed, a crash that cost a sample)
    are logged to ``visionward.compare``.

    Args:
        plan: models, samples and settings.
        on_progress: called after every sample (the stage is the model's name, the unit "samples"), and at the end
            while the files are hashed for the report (the unit "bytes").

    Raises:
        DataError: if two models have one name, no sample was judged by every model, another comparison runs in
            ``plan.work``, or an endpoint cannot be told of the policy.
        ComputeError: if a candidate cannot be opened, or the reference cannot be run.
        ModelFileError: if a file is missing.
        PolicyError: if the band of a pair is for another threshold or policy.
        MissingExtraError: if a library of the extra ``compare`` is missing.
    """
    # Better now than after hours of judging.
    require("scipy.stats", "sklearn.metrics", *(["openai"] if plan.endpoints else []))
    with _work_folder(plan) as work:
        results = judge_all(plan, work, on_progress)
        report = make_report(
            plan.datasets,
            results,
            threshold=plan.settings.threshold,
            margin=plan.margin,
            show_quoted=plan.quoted,
            environment=environment(plan, results, hashed_files(plan.pairs, on_progress)),
            band=learn_band(plan.datasets, results, plan.settings, plan.margin),
        )
    return Comparison(report, plan.datasets, tuple(results))


@contextmanager
def _work_folder(plan: ComparisonPlan) -> Iterator[Path]:
    if plan.work is not None:
        yield plan.work
        return
    with tempfile.TemporaryDirectory(prefix="visionward-compare-") as folder:
        yield Path(folder)
