"""A model against the reference, on the same samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visionward.compare.answers import Answers
from visionward.compare.cost import percentile, processors_median, stage_ms
from visionward.compare.decisions import Bools, Confusion, decision_counts
from visionward.compare.flips import Flips, flips_by_label
from visionward.compare.intervals import Estimate, difference_estimates, mean_estimate
from visionward.compare.journal import Judged
from visionward.compare.matching_threshold import Threshold, matching_threshold
from visionward.compare.results import ModelResults
from visionward.compare.times import equally_free, ratio_estimate
from visionward.runtime.guard.samples import Sample


@dataclass(frozen=True)
class AgainstReference:
    """A model against the reference, on the same samples.

    Attributes:
        differences: this model minus the reference, for precision, recall, F1 and false-positive rate.
        flips: decisions that differ from the reference's.
        kl_mean: mean divergence of the first-token distribution, in nats.
        kl_p99: its 99th percentile.
        score_change_mean: mean of P(unsafe) minus the reference's.
        score_change_abs: mean absolute change.
        score_change_max: largest absolute change.
        logit_error: median relative error of the first-token logits.
        feature_error: median relative error of the vision features.
        feature_images: number of images in that median.
        threshold: thresholds for the reference's false-positive rate.
        held_up: other programs took processor time from this model or the reference, so that times are not comparable.
        time_ratio: time of a verdict over the reference's, on the same samples; no value if ``held_up``.
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


def against_reference(
    result: ModelResults, answers: Answers, reference: Answers, samples: list[Sample], known: Bools
) -> AgainstReference:
    """All figures of a model against the reference.

    Args:
        result: answers and loads of the model.
        answers: the model's answers.
        reference: the reference's answers.
        samples: samples that both judged.
        known: which of them have a label, (samples,).
    """
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
    held_up = on_cpu and not equally_free(processors_median(answers.judged), processors_median(reference.judged))
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


def _totals(judged: Sequence[Judged]) -> list[float | None]:
    return [None if one.times_ms is None else stage_ms(one.times_ms, "total") for one in judged]
