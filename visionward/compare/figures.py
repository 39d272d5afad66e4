"""The figures of the report, per data set and model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from visionward.compare.against_reference import AgainstReference, against_reference
from visionward.compare.answers import Answers
from visionward.compare.calibration import Reliability, average_precision, reliability
from visionward.compare.cost import Cost, cost
from visionward.compare.datasets import Dataset
from visionward.compare.decisions import Confusion, decision_counts, independent_samples, join_copies
from visionward.compare.intervals import Estimate, measure_estimates
from visionward.compare.models import GuardFiles
from visionward.compare.results import ModelResults
from visionward.compare.threshold_curve import ThresholdPoint, threshold_curve
from visionward.names import DEFAULT_THRESHOLD
from visionward.runtime.guard.samples import Sample


@dataclass(frozen=True)
class CategoryFigure:
    """F1 of a category.

    Attributes:
        code: category code.
        support: number of samples labelled with it.
        f1: F1 of naming it.
    """

    code: str
    support: int
    f1: Estimate


@dataclass(frozen=True)
class ModelFigures:
    """A model on a data set.

    Attributes:
        name: name of the model.
        kind: ``reference``, ``candidate`` or ``endpoint``.
        confusion: decisions on labelled samples.
        measures: precision, recall, f1, fpr.
        categories: F1 by category; empty if no sample has categories.
        average_precision: area under the precision-recall curve.
        reliability: of the scores.
        thresholds: recall and false-positive rate at every threshold.
        gives_probabilities: whether any score is neither 0 nor 1.
        no_answer: number of samples without an answer, which count as unsafe.
        cost: size, memory and times.
        against: comparison with the reference; None for the reference.
        setting: what differs from the default in how it judges; empty if nothing.
        second_looks: samples that ``max_tiles`` auto judged with one tile first and again with all tiles.
    """

    name: str
    kind: str
    confusion: Confusion
    measures: Mapping[str, Estimate]
    categories: tuple[CategoryFigure, ...]
    average_precision: Estimate
    reliability: Reliability | None
    thresholds: tuple[ThresholdPoint, ...]
    gives_probabilities: bool
    no_answer: int
    cost: Cost
    against: AgainstReference | None
    setting: str = ""
    second_looks: int = 0


@dataclass(frozen=True)
class Skipped:
    """A sample that is not in the figures.

    Attributes:
        sample: its id.
        model: the model that could not judge it; None for a row of the data that is no sample.
        reason: the reason.
    """

    sample: str
    model: str | None
    reason: str

    @property
    def text(self) -> str:
        """The sample, the model and the reason in one line."""
        return f"{self.sample}: {self.reason}" if self.model is None else f"{self.sample}, {self.model}: {self.reason}"


@dataclass(frozen=True)
class SetFigures:
    """All models on one data set.

    Attributes:
        name: name of the set.
        samples: number of samples.
        compared: samples that every model judged. All figures are about these.
        unsafe: compared samples with the label unsafe.
        safe: compared samples with the label safe.
        unlabelled: compared samples without a label.
        groups: groups of samples that are not independent of each other; exact copies share one.
        independent: label (``unsafe``, ``safe``) to the number of independent samples; see `independent_samples`.
        skipped: samples that are not in the figures.
        notes: notes of the adapter.
        models: the reference first.
    """

    name: str
    samples: int
    compared: int
    unsafe: int
    safe: int
    unlabelled: int
    groups: int
    independent: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    models: tuple[ModelFigures, ...]

    @property
    def has_onnx_towers(self) -> bool:
        """Whether a model has an ONNX tower, so that tables need a column for it."""
        return any(model.cost.tower_bytes is not None for model in self.models)


def compared_samples(dataset: Dataset, results: Sequence[ModelResults]) -> tuple[list[int], tuple[Skipped, ...]]:
    """Indices of the samples that every model judged, and why the others are left out.

    Args:
        dataset: the samples.
        results: of all models but those that were given up.
    """
    skipped = [Skipped(row.id, None, row.reason) for row in dataset.left_out]
    kept = []
    for index, (digest, sample) in enumerate(zip(dataset.digests, dataset.samples, strict=True)):
        complete = True
        for result in results:
            found = result.judged.get(digest)
            if found is None or found.reason is not None:
                complete = False
                reason = "no answer was received" if found is None else found.reason or ""
                skipped.append(Skipped(sample.id, result.model.name, reason))
        if complete:
            kept.append(index)
    return kept, tuple(skipped)


def set_figures(dataset: Dataset, results: Sequence[ModelResults], threshold: float = DEFAULT_THRESHOLD) -> SetFigures:
    """All figures of one data set.

    Args:
        dataset: the samples.
        results: of all models, the reference's first.
        threshold: threshold of the decisions.
    """
    kept, skipped = compared_samples(dataset, results)
    groups = join_copies([dataset.samples[i].group for i in kept], [dataset.digests[i] for i in kept])
    samples = [replace(dataset.samples[i], group=group) for i, group in zip(kept, groups, strict=True)]
    answers = [Answers.of([result.judged[dataset.digests[index]] for index in kept]) for result in results]
    models = tuple(
        _model_figures(result, answer, samples, None if place == 0 else answers[0], threshold)
        for place, (result, answer) in enumerate(zip(results, answers, strict=True))
    )
    labels = [sample.unsafe for sample in samples]
    return SetFigures(
        name=dataset.name,
        samples=len(dataset.samples),
        compared=len(samples),
        unsafe=labels.count(True),
        safe=labels.count(False),
        unlabelled=labels.count(None),
        groups=len({sample.group for sample in samples}),
        independent={
            name: independent_samples([sample.group for sample in samples if sample.unsafe is label])
            for name, label in (("unsafe", True), ("safe", False))
        },
        skipped=skipped,
        notes=dataset.notes,
        models=models,
    )


def _model_figures(
    result: ModelResults, answers: Answers, samples: list[Sample], reference: Answers | None, threshold: float
) -> ModelFigures:
    known = np.array([sample.unsafe is not None for sample in samples], bool)
    labels = np.array([bool(sample.unsafe) for sample in samples], bool)[known]
    groups = [sample.group for sample in samples if sample.unsafe is not None]
    counts = decision_counts(labels, answers.decisions[known])
    if isinstance(result.model, GuardFiles):
        kind = "candidate" if reference is not None else "reference"
    else:
        kind = "endpoint"
    return ModelFigures(
        name=result.model.name,
        kind=kind,
        confusion=Confusion.of(counts),
        measures=measure_estimates(counts, groups),
        categories=_categories(answers, samples),
        average_precision=Estimate(average_precision(labels, answers.scores[known])),
        reliability=reliability(labels, answers.scores[known]),
        thresholds=threshold_curve(labels, answers.scores[known], answers.always[known], threshold),
        gives_probabilities=bool(np.any((answers.scores > 0) & (answers.scores < 1))),
        no_answer=int(answers.always.sum()),
        cost=cost(result, answers.judged),
        against=None if reference is None else against_reference(result, answers, reference, samples, known),
        setting=result.model.setting if isinstance(result.model, GuardFiles) else "",
        second_looks=sum(one.second_look for one in answers.judged),
    )


def _categories(answers: Answers, samples: list[Sample]) -> tuple[CategoryFigure, ...]:
    chosen = [
        (sample, one) for sample, one in zip(samples, answers.judged, strict=True) if sample.categories is not None
    ]
    codes = {code for sample, _ in chosen for code in sample.categories or ()}
    groups = [sample.group for sample, _ in chosen]
    figures = []
    for code in sorted(codes, key=lambda code: int(code[1:])):
        labels = np.array([code in (sample.categories or ()) for sample, _ in chosen], bool)
        named = np.array([code in one.categories for _, one in chosen], bool)
        f1 = measure_estimates(decision_counts(labels, named), groups, ["f1"])["f1"]
        figures.append(CategoryFigure(code, int(labels.sum()), f1))
    return tuple(figures)
