"""Every figure of the report: for each data set and each model, and each model against the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from visionward.compare.calibration import (
    Reliability,
    Threshold,
    average_precision,
    matching_threshold,
    percentile,
    reliability,
)
from visionward.compare.datasets import Dataset
from visionward.compare.decisions import Bools, Confusion, decision_counts, join_copies
from visionward.compare.flips import Flips, flips_by_label
from visionward.compare.intervals import Estimate, difference_estimates, mean_estimate, measure_estimates
from visionward.compare.journal import Judged
from visionward.compare.judging import ModelResults
from visionward.compare.models import GuardFiles, file_size
from visionward.compare.times import equally_free, ratio_estimate
from visionward.runtime.guard.samples import Sample

STAGES = ("vision", "prefill", "decode", "total")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a stage; vision includes decoding and cutting the image."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    Attributes:
        text_bytes: size of the text file.
        mmproj_bytes: size of the mmproj file.
        tower_bytes: size of the ONNX tower; None where ggml encodes images.
        load_ms: the last loading.
        peak_bytes: most memory that its process used, mapped weights included; None where it is not known.
        latency: by stage, over the samples of the set.
        device: what computed.
        threads: CPU threads.
        processors: how many processors' time a verdict had, in the median; None where it is not known.
    """

    text_bytes: int | None
    mmproj_bytes: int | None
    tower_bytes: int | None
    load_ms: float | None
    peak_bytes: int | None
    latency: Mapping[str, Latency]
    device: str | None
    threads: int | None
    processors: float | None

    @property
    def total_bytes(self) -> int | None:
        """All files."""
        if self.text_bytes is None or self.mmproj_bytes is None:
            return None
        return self.text_bytes + self.mmproj_bytes + (self.tower_bytes or 0)


@dataclass(frozen=True)
class CategoryFigure:
    """F1 of naming a category.

    Attributes:
        code: of the taxonomy.
        support: samples that are labelled with it.
        f1: with its interval.
    """

    code: str
    support: int
    f1: Estimate


@dataclass(frozen=True)
class AgainstReference:
    """A model against the reference, on the same samples.

    Attributes:
        differences: of precision, recall, F1 and false-positive rate: this model minus the reference.
        flips: decisions that differ.
        kl_mean: mean divergence of the first-token distribution, in nats.
        kl_p99: its 99th percentile.
        score_change_mean: mean of P(unsafe) minus the reference's.
        score_change_abs: mean distance.
        score_change_max: largest distance.
        logit_error: median relative error of the first-token logits.
        feature_error: median relative error of the vision features.
        feature_images: images that it was measured on.
        threshold: those that give the reference's false-positive rate.
        held_up: other programs took processor time from this model or from the reference; times cannot be compared.
        time_ratio: time of a verdict over the reference's, on the same samples; not given where one was held up.
    """

    differences: Mapping[str, Estimate]
    flips: Flips
    kl_mean: Estimate
    kl_p99: float | None
    score_change_mean: float
    score_change_abs: float
    score_change_max: float
    logit_error: float | None
    feature_error: float | None
    feature_images: int
    threshold: Threshold | None
    held_up: bool
    time_ratio: Estimate


@dataclass(frozen=True)
class ModelFigures:
    """A model on a data set.

    Attributes:
        name: of the model.
        kind: ``reference``, ``candidate`` or ``endpoint``.
        confusion: decisions on labelled samples.
        measures: precision, recall, f1, fpr.
        categories: by category, where the set has any.
        average_precision: ranking by score.
        reliability: of the scores.
        gives_probabilities: whether there is any score but 0 and 1.
        no_answer: samples where the model did not really answer, which counts as unsafe.
        cost: what it takes.
        against: None for the reference.
    """

    name: str
    kind: str
    confusion: Confusion
    measures: Mapping[str, Estimate]
    categories: tuple[CategoryFigure, ...]
    average_precision: Estimate
    reliability: Reliability | None
    gives_probabilities: bool
    no_answer: int
    cost: Cost
    against: AgainstReference | None


@dataclass(frozen=True)
class Skipped:
    """A sample that is in no figure.

    Attributes:
        sample: its id.
        model: which model could not judge it; None if it is no sample at all.
        reason: why.
    """

    sample: str
    model: str | None
    reason: str


@dataclass(frozen=True)
class SetFigures:
    """All models on one data set.

    Attributes:
        name: of the set.
        samples: of the set.
        compared: those that every model judged, which all figures are about.
        unsafe: of these.
        safe: of these.
        unlabelled: of these.
        groups: of samples that are not independent of each other, exact copies among them.
        skipped: the others.
        notes: of the set's adapter.
        models: the reference first.
    """

    name: str
    samples: int
    compared: int
    unsafe: int
    safe: int
    unlabelled: int
    groups: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    models: tuple[ModelFigures, ...]

    @property
    def has_onnx_towers(self) -> bool:
        """Whether a model has one, so that their sizes need a column."""
        return any(model.cost.tower_bytes is not None for model in self.models)


@dataclass(frozen=True, eq=False)
class _Answers:
    """One model's answers on the samples that all models judged."""

    judged: list[Judged]
    decisions: Bools
    scores: np.ndarray[tuple[int], np.dtype[np.float64]]
    always: Bools

    @classmethod
    def of(cls, judged: list[Judged]) -> "_Answers":
        always = np.array([one.no_answer for one in judged], bool)
        scores = np.array([1.0 if one.no_answer else one.score or 0.0 for one in judged], np.float64)
        return cls(judged, np.array([bool(one.unsafe) for one in judged], bool), scores, always)


def compared_samples(dataset: Dataset, results: Sequence[ModelResults]) -> tuple[list[int], tuple[Skipped, ...]]:
    """Indices of the samples that every model judged, and why the others are left out. Given-up models do not count."""
    skipped = [Skipped(row.id, None, row.reason) for row in dataset.left_out]
    kept = []
    for index, (digest, sample) in enumerate(zip(dataset.digests, dataset.samples, strict=True)):
        complete = True
        for result in results:
            found = result.judged.get(digest)
            if found is None or found.reason is not None:
                complete = False
                reason = "it got no answer" if found is None else found.reason or ""
                skipped.append(Skipped(sample.id, result.model.name, reason))
        if complete:
            kept.append(index)
    return kept, tuple(skipped)


def set_figures(dataset: Dataset, results: Sequence[ModelResults]) -> SetFigures:
    """All figures of one data set; the first result is the reference's."""
    kept, skipped = compared_samples(dataset, results)
    groups = join_copies([dataset.samples[i].group for i in kept], [dataset.digests[i] for i in kept])
    samples = [replace(dataset.samples[i], group=group) for i, group in zip(kept, groups, strict=True)]
    answers = [_Answers.of([result.judged[dataset.digests[index]] for index in kept]) for result in results]
    models = tuple(
        _model_figures(result, answer, samples, None if place == 0 else answers[0])
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
        skipped=skipped,
        notes=dataset.notes,
        models=models,
    )


def _model_figures(
    result: ModelResults, answers: _Answers, samples: list[Sample], reference: _Answers | None
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
        gives_probabilities=bool(np.any((answers.scores > 0) & (answers.scores < 1))),
        no_answer=int(answers.always.sum()),
        cost=_cost(result, answers.judged),
        against=None if reference is None else _against(result, answers, reference, samples, known),
    )


def _categories(answers: _Answers, samples: list[Sample]) -> tuple[CategoryFigure, ...]:
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


def _cost(result: ModelResults, judged: Sequence[Judged]) -> Cost:
    model = result.model
    files = model if isinstance(model, GuardFiles) else None
    latency = {}
    for stage in STAGES:
        times = [time for one in judged if one.times_ms and (time := _stage_ms(one.times_ms, stage)) is not None]
        p50, p95 = percentile(times, 50), percentile(times, 95)
        if p50 is not None and p95 is not None:
            latency[stage] = Latency(p50, p95)
    loaded = result.loads[-1] if result.loads else None
    return Cost(
        text_bytes=None if files is None else file_size(files.text),
        mmproj_bytes=None if files is None else file_size(files.mmproj),
        tower_bytes=None if files is None or not files.tower_files else sum(map(file_size, files.tower_files)),
        load_ms=None if loaded is None else loaded.load_ms,
        peak_bytes=max((one.peak_bytes for one in result.judged.values() if one.peak_bytes), default=None),
        latency=latency,
        device=None if loaded is None else loaded.device,
        threads=None if loaded is None else loaded.threads,
        processors=_processors(judged),
    )


def _processors(judged: Sequence[Judged]) -> float | None:
    return percentile([one.processors for one in judged if one.processors is not None], 50)


def _totals(judged: Sequence[Judged]) -> list[float | None]:
    return [None if one.times_ms is None else _stage_ms(one.times_ms, "total") for one in judged]


def _stage_ms(times: Mapping[str, float], stage: str) -> float | None:
    if stage == "vision" and "vision" in times:
        return times["vision"] + times.get("preprocess", 0.0)
    if stage == "decode" and times.get("decode", 0.0) < 1e-3:
        return None
    return times.get(stage)


def _against(
    result: ModelResults, answers: _Answers, reference: _Answers, samples: list[Sample], known: Bools
) -> AgainstReference:
    labels = np.array([bool(sample.unsafe) for sample in samples], bool)[known]
    groups = [sample.group for sample in samples]
    known_groups = [sample.group for sample in samples if sample.unsafe is not None]
    reference_counts = decision_counts(labels, reference.decisions[known])
    counts = decision_counts(labels, answers.decisions[known])
    measured = [(one.kl, group) for one, group in zip(answers.judged, groups, strict=True) if one.kl is not None]
    divergences = [kl for kl, _ in measured]
    errors = [one.logit_error for one in answers.judged if one.logit_error is not None]
    feature_errors = [one.error for one in result.features if one.error is not None]
    change = answers.scores - reference.scores
    # What a GPU does takes no processor time.
    on_cpu = bool(result.loads) and result.loads[-1].device == "CPU"
    held_up = on_cpu and not equally_free(_processors(answers.judged), _processors(reference.judged))
    timed = [
        (own, theirs)
        for own, theirs in zip(_totals(answers.judged), _totals(reference.judged), strict=True)
        if own is not None and theirs is not None
    ]
    return AgainstReference(
        differences=difference_estimates(reference_counts, counts, known_groups),
        flips=flips_by_label(reference.decisions, answers.decisions, [sample.unsafe for sample in samples], groups),
        kl_mean=mean_estimate(divergences, [group for _, group in measured]),
        kl_p99=percentile(divergences, 99),
        score_change_mean=float(change.mean()) if len(change) else 0.0,
        score_change_abs=float(np.abs(change).mean()) if len(change) else 0.0,
        score_change_max=float(np.abs(change).max()) if len(change) else 0.0,
        logit_error=percentile(errors, 50),
        feature_error=percentile(feature_errors, 50),
        feature_images=len(feature_errors),
        threshold=matching_threshold(
            labels,
            answers.scores[known],
            answers.always[known],
            Confusion.of(counts),
            Confusion.of(reference_counts),
        ),
        held_up=held_up,
        time_ratio=Estimate(None) if held_up else ratio_estimate(timed),
    )
