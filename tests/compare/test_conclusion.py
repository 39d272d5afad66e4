"""Conclusions in sentences."""

import dataclasses
import io
import math
import re

import numpy as np
import pytest
from rich.console import Console
from simulated_comparison import simulated_results, simulated_samples

from visionward.compare.conclusion import best_choice, conclusions
from visionward.compare.datasets import Dataset
from visionward.compare.figures import set_figures
from visionward.compare.report import make_report
from visionward.compare.report_files import write_report
from visionward.compare.terminal_report import terminal_report


def test_conclusions_in_words(simulated):
    dataset, results = simulated
    figures = set_figures(dataset, results)
    found = {one.model: one for one in conclusions(figures, 0.05)}
    assert found["q8_0"].finding == "equivalent"
    assert found["q4_0"].finding == "worse"
    text = " ".join(found["q4_0"].sentences)
    assert re.search(r"Misses: \d+ of 120 unsafe samples \(f16: \d+\)\. False alarms: \d+ of 120 safe samples", text)
    assert "Significant change of misses (exact McNemar p < 0.001)" in text
    assert "Size: 4.00 MB instead of 16.0 MB." in text
    assert "--threshold" in text
    assert best_choice(figures, tuple(found.values())).startswith("Use q8_0 (8.00 MB instead of 16.0 MB): ")
    # A stricter margin than the samples can show.
    strict = conclusions(figures, 0.001)
    assert strict[0].finding == "undecided"
    assert "No recommendation yet: 120 unsafe and 120 safe samples are too few to assess" in best_choice(
        figures, strict
    )


def test_few_samples_decide_nothing(tmp_path):
    dataset = simulated_samples(12)
    figures = set_figures(dataset, simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q8_0": (0.0, 50)}))
    (only,) = conclusions(figures, 0.02)
    assert only.finding == "undecided"
    text = " ".join(only.sentences)
    assert "too few for a margin of 2 points: only a change of at least 100 % (6 flips) is detectable" in text


def _copies(folder, grouped):
    """Ten unsafe and ten safe questions, asked twenty times each, on which nothing flips."""
    samples = [
        dataclasses.replace(one, id=f"{one.id} {i}", group=one.group if grouped else f"{one.group} {i}")
        for one in simulated_samples(20).samples
        for i in range(20)
    ]
    dataset = Dataset("copies", tuple(samples))
    return dataset, simulated_results(folder, dataset, {"f16": (0.0, 100), "q4_0": (0.0, 50)})


@pytest.mark.parametrize("grouped", [True, False])
def test_copies_of_few_questions_recommend_nothing(tmp_path, grouped):
    """400 samples of 20 questions are 20 observations, and say so, even if nobody said that they are copies."""
    dataset, results = _copies(tmp_path, grouped)
    (one,) = make_report([dataset], results, threshold=0.5, margin=0.02).sets
    assert one.choice == "No recommendation yet: 200 unsafe and 200 safe samples are too few to assess q4_0."
    text = " ".join(one.conclusions[0].sentences)
    assert "in points: recall -36.9 to +36.9, false-positive rate -36.9 to +36.9." in text
    assert (
        "10 groups of unsafe samples are too few for a margin of 2 points: "
        "only a change of at least 60 % (6 groups) is detectable." in text
    )
    assert "McNemar" not in text


def test_what_one_large_group_could_undo_is_not_certain(tmp_path):
    """Twenty single samples are lost, but a group of thirty, which did not change, could have been gained."""
    made = simulated_samples(400).samples
    alike = {sample.id: "large" for sample in [one for one in made if one.unsafe][-30:]}
    dataset = Dataset("one large", tuple(dataclasses.replace(s, group=alike.get(s.id, s.group)) for s in made))
    results = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q4_0": (0.0, 50)})
    judged = {digest: dataclasses.replace(one, unsafe=True) for digest, one in results[0].judged.items()}
    reference = dataclasses.replace(results[0], judged=judged)
    lost = dict(judged)
    for digest in [digest for digest, one in zip(dataset.digests, dataset.samples, strict=True) if one.unsafe][:20]:
        lost[digest] = dataclasses.replace(lost[digest], unsafe=False)
    figures = set_figures(dataset, [reference, dataclasses.replace(results[1], judged=lost)])
    assert figures.models[1].against.flips.unsafe.decisive_p < 0.001
    (only,) = conclusions(figures, 0.02)
    assert only.finding == "undecided"
    assert "Uncertain change of misses" in " ".join(only.sentences)


def test_nothing_flips_and_nothing_is_to_be_recalibrated(tmp_path):
    dataset = simulated_samples(40)
    results = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q8_0": (0.0, 50)})
    report = make_report([dataset], results, threshold=0.5, margin=0.02)
    assert report.sets[0].figures.models[1].against.threshold.text == "unchanged"
    assert "--threshold" not in " ".join(report.sets[0].conclusions[0].sentences)
    stream = io.StringIO()
    Console(file=stream, width=200).print(terminal_report(report))
    assert "unchanged" in stream.getvalue()
    write_report(tmp_path, report, [dataset], results)
    assert "unchanged" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [
        (1.06, r"Time of a verdict: .+ instead of .+, which is within the measurement noise\."),
        (2, r"Time of a verdict: \d\.\d s instead of \d\.\d s\."),
    ],
)
def test_times_within_their_noise_are_no_difference(tmp_path, factor, sentence):
    dataset = simulated_samples(60)
    base, other = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q8_0": (0.0, 50)})
    noise = np.random.default_rng(5).lognormal(math.log(factor), 0.3, 60)
    slowed = {
        digest: dataclasses.replace(one, times_ms={"total": base.judged[digest].times_ms["total"] * own})
        for (digest, one), own in zip(other.judged.items(), noise, strict=True)
    }
    figures = set_figures(dataset, [base, dataclasses.replace(other, judged=slowed)])
    medians = [model.cost.latency["total"].p50 for model in figures.models]
    assert abs(medians[1] / medians[0] - 1) > 0.05
    assert re.search(sentence, " ".join(conclusions(figures, 0.02)[0].sentences))


def test_times_of_a_model_that_was_held_up_are_not_compared(tmp_path):
    """Other programs took two thirds of one model's processor time, evenly, so that the spread does not show it."""
    dataset = simulated_samples(60)
    base, other = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q8_0": (0.0, 50)})

    def had(result, processors, factor):
        judged = {
            digest: dataclasses.replace(
                one, processors=processors, times_ms={"total": base.judged[digest].times_ms["total"] * factor}
            )
            for digest, one in result.judged.items()
        }
        return dataclasses.replace(result, judged=judged)

    def said(*results):
        figures = set_figures(dataset, results)
        return figures.models[1].against.time_ratio.value, " ".join(conclusions(figures, 0.02)[0].sentences)

    ratio, text = said(had(base, 1.95, 1), had(other, 0.65, 3))
    assert ratio is None
    assert re.search(r"Time of a verdict: .+ instead of .+, not comparable: other programs held up one", text)
    assert "instead of 1.4 s." not in text
    for processors in ((1.95, 1.9), (0.65, 0.65)):
        ratio, text = said(had(base, processors[0], 1), had(other, processors[1], 3))
        assert ratio == pytest.approx(3)
        assert re.search(r"Time of a verdict: .+ s instead of 1\.4 s\.", text)


def test_samples_without_labels(tmp_path):
    labelled = simulated_samples(12)
    dataset = Dataset("u", tuple(dataclasses.replace(s, unsafe=None, categories=None) for s in labelled.samples))
    results = simulated_results(tmp_path, labelled, {"f16": (0.0, 100), "q4_0": (3.0, 50)})
    figures = set_figures(dataset, results)
    assert (figures.unsafe, figures.safe, figures.unlabelled) == (0, 0, 12)
    assert figures.models[1].measures["f1"].value is None
    (only,) = conclusions(figures, 0.02)
    assert only.finding == "undecided"
    assert "No sample has a label" in only.sentences[0]
    report = make_report([dataset], results, threshold=0.5, margin=0.02)
    write_report(tmp_path / "out", report, [dataset], results)


def test_one_class_alone(tmp_path):
    both = simulated_samples(40)
    for unsafe in (True, False):
        dataset = Dataset("one", tuple(s for s in both.samples if s.unsafe is unsafe))
        results = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q4_0": (3.0, 50)})
        report = make_report([dataset], results, threshold=0.5, margin=0.02)
        assert report.sets[0].conclusions[0].finding in ("undecided", "worse")
        write_report(tmp_path / "out", report, [dataset], results)
