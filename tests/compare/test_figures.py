"""Figures of a data set, against scikit-learn."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics

from visionward.compare.datasets import LeftOut
from visionward.compare.figures import set_figures


def test_figures_are_those_of_scikit_learn(simulated):
    dataset, results = simulated
    figures = set_figures(dataset, results)
    labels = [sample.unsafe for sample in dataset.samples]
    for model, result in zip(figures.models, results, strict=True):
        answers = [result.judged[digest] for digest in dataset.digests]
        decided = [one.unsafe for one in answers]
        assert model.measures["f1"].value == pytest.approx(metrics.f1_score(labels, decided))
        assert model.measures["precision"].value == pytest.approx(metrics.precision_score(labels, decided))
        assert model.measures["recall"].value == pytest.approx(metrics.recall_score(labels, decided))
        scores = [one.score for one in answers]
        assert model.average_precision.value == pytest.approx(metrics.average_precision_score(labels, scores))
        for category in model.categories:
            truth = [category.code in sample.categories for sample in dataset.samples]
            named = [category.code in one.categories for one in answers]
            assert category.support == sum(truth)
            assert category.f1.value == pytest.approx(metrics.f1_score(truth, named))


def test_against_the_reference(simulated):
    dataset, results = simulated
    model = set_figures(dataset, results).models[2]
    base, own = ([result.judged[digest] for digest in dataset.digests] for result in (results[0], results[2]))
    against = model.against
    assert against.kl_mean.value == pytest.approx(np.mean([one.kl for one in own]))
    assert against.kl_p99 == pytest.approx(np.percentile([one.kl for one in own], 99))
    change = [one.score - other.score for one, other in zip(own, base, strict=True)]
    assert against.score_change_abs == pytest.approx(np.mean(np.abs(change)))
    flipped = sum(one.unsafe != other.unsafe for one, other in zip(own, base, strict=True))
    assert against.flips.all.to_safe + against.flips.all.to_unsafe == flipped
    assert against.threshold.confusion.false_alarms <= set_figures(dataset, results).models[0].confusion.false_alarms
    assert model.cost.latency["vision"].p50 == pytest.approx(
        np.median([one.times_ms["vision"] + one.times_ms["preprocess"] for one in own])
    )
    # Safe verdicts decode nothing: they do not count in the time of decoding.
    assert model.cost.latency["decode"].p50 > 1


def test_skipped_samples_are_counted_and_in_no_figure(simulated):
    dataset, results = simulated
    judged = dict(results[1].judged)
    judged[dataset.digests[4]] = dataclasses.replace(judged[dataset.digests[4]], unsafe=None, score=None, reason="bad")
    del judged[dataset.digests[7]]
    changed = [results[0], dataclasses.replace(results[1], judged=judged)]
    some = dataclasses.replace(dataset, left_out=(LeftOut("row 9", "no label"),))
    figures = set_figures(some, changed)
    assert (figures.samples, figures.compared) == (240, 238)
    assert [(one.sample, one.model, one.reason) for one in figures.skipped] == [
        ("row 9", None, "no label"),
        ("s4", "q8_0", "bad"),
        ("s7", "q8_0", "no answer was received"),
    ]
    assert all(sum(dataclasses.astuple(model.confusion)) == 238 for model in figures.models)
