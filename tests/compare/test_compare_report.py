"""Figures of whole data sets, conclusions in words, and the files of a report."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from simulated import simulated_endpoint, simulated_results, simulated_samples
from sklearn import metrics

from visionward.compare.conclusion import best_choice, conclusions
from visionward.compare.datasets import Dataset, LeftOut
from visionward.compare.error_lists import compared_answers, error_lists
from visionward.compare.figures import set_figures
from visionward.compare.report import make_report
from visionward.compare.report_files import write_report
from visionward.compare.report_json import report_dict
from visionward.compare.samples_csv import COLUMNS
from visionward.compare.terminal_report import terminal_report
from visionward.errors import DataError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample

NOISES = {"f16": (0.0, 16 * 10**6), "q8_0": (0.02, 8 * 10**6), "q4_0": (3.0, 4 * 10**6)}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    dataset = simulated_samples(240, folder, group_size=1)
    return dataset, [*simulated_results(folder, dataset, NOISES), simulated_endpoint(dataset)]


@pytest.fixture(scope="module")
def written(simulated, tmp_path_factory):
    dataset, results = simulated
    folder = tmp_path_factory.mktemp("report")
    report = make_report([dataset], results, threshold=0.5, margin=0.05, show_quoted=True)
    write_report(folder, report, [dataset], results)
    return folder, report


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


def test_nothing_to_compare_is_an_error(simulated):
    dataset, results = simulated
    empty = dataclasses.replace(results[1], judged={})
    with pytest.raises(DataError, match="no sample was judged by every model"):
        make_report([dataset], [results[0], empty], threshold=0.5, margin=0.02)


def test_a_model_that_was_given_up_is_named(simulated, tmp_path):
    dataset, results = simulated
    broken = dataclasses.replace(results[1], judged={}, given_up="the process died (signal 11), 3 times")
    report = make_report([dataset], [results[0], broken, results[2]], threshold=0.5, margin=0.02)
    assert [model.name for model in report.sets[0].figures.models] == ["f16", "q4_0"]
    write_report(tmp_path, report, [dataset], [results[0], broken, results[2]])
    assert "signal 11" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "signal 11" in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["given_up"]["q8_0"]


def test_sets_are_never_pooled(simulated, tmp_path):
    dataset, results = simulated
    halves = [
        dataclasses.replace(dataset, name=name, samples=dataset.samples[part])
        for name, part in (("one", slice(0, 120)), ("two", slice(120, None)))
    ]
    report = make_report(halves, results, threshold=0.5, margin=0.02)
    assert [one.figures.compared for one in report.sets] == [120, 120]
    write_report(tmp_path, report, halves, results)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_csv_has_every_sample_and_model(written, simulated):
    folder, _ = written
    dataset, results = simulated
    rows = list(csv.DictReader((folder / "samples.csv").open(encoding="utf-8", newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(dataset.samples) * len(results)
    first = results[1].judged[dataset.digests[0]]
    row = next(row for row in rows if row["sample"] == "s0" and row["model"] == "q8_0")
    assert float(row["score"]) == pytest.approx(first.score)
    assert {row["flip"] for row in rows} == {"", "to safe", "to unsafe"}


def test_json_is_whole_and_strict(written, simulated):
    folder, report = written
    value = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert value["sets"][0]["figures"]["models"][0]["measures"]["f1"]["low"] is not None
    assert value["quoted"]["table_1"][0]["f1"] == 0.733
    assert value == json.loads(json.dumps(report_dict(report, simulated[1])))


class _References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag in ("script", "iframe", "link"):
            self.found.append((tag, "", ""))


def test_html_refers_to_nothing_outside(written):
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    parser = _References()
    parser.feed(html)
    for tag, name, value in parser.found:
        assert value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "q4_0 is worse than f16" in html
    # The first thing is one table: candidate, decision, flips, size, time.
    table = html[html.index("<table") : html.index("</table>")]
    assert re.findall(r"<th[^>]*>([^<]+)", table) == ["candidate", "decision", "flips", "size", "time"]
    assert re.findall(r'class="name">([^<]+)', table) == ["f16", "q8_0", "q4_0", "general-model"]
    assert html.index("</table>") < html.index("independent samples") < html.index("Conclusion")
    assert html.count("<svg") >= 4
    assert "data:image/jpeg" in html


def test_html_escapes_what_others_wrote(simulated, tmp_path):
    dataset, results = simulated
    evil = "<script>alert(1)</script> & \u202e'\""
    flipped = next(
        i
        for i, digest in enumerate(dataset.digests)
        if results[0].judged[digest].unsafe != results[2].judged[digest].unsafe
    )
    samples = list(dataset.samples)
    samples[flipped] = Sample.make(evil, Conversation.from_prompt(evil), unsafe=True, group="g")
    changed = Dataset(evil, tuple(samples))
    mapped = [
        dataclasses.replace(
            result, judged={**result.judged, changed.digests[flipped]: result.judged[dataset.digests[flipped]]}
        )
        for result in results
    ]
    report = make_report([changed], mapped, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], mapped)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_has_every_colour_for_light_and_dark(written):
    """Plots are drawn with the variables of the style sheet alone, and the style sheet has them twice."""
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.+?)\}", style, re.DOTALL))
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert light == dark
    assert used <= light
    for drawing in re.findall(r"<svg.+?</svg>", html, re.DOTALL):
        assert re.match(r'<svg role="img" aria-label="[^"<>]+ against [^"<>]+" ', drawing)
        painted = re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)
        assert painted
        assert all(paint == "none" or paint.startswith("var(--") for paint in painted)


def _tables(tokens):
    """The tables of parsed Markdown, as rows of cells."""
    tables = []
    for token, following in itertools.pairwise(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            tables[-1][-1].append("".join(child.content for child in following.children))
    return tables


def test_markdown_says_what_the_page_says(written):
    text = (written[0] / "report.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    # Scores are plots alone.
    on_page = [text.rstrip("*") for text in re.findall(r"<h[12]>([^<]+)", html) if text != "Scores"]
    assert headings == [*on_page, "How it was measured"]
    overview, decisions, *_ = _tables(tokens)
    assert overview[0] == ["candidate", "decision", "flips", "size", "time"]
    assert [row[0] for row in overview[1:]] == ["f16", "q8_0", "q4_0", "general-model"]
    for row, model in zip(decisions[1:], written[1].sets[0].figures.models, strict=True):
        assert row[0] == model.name
        assert row[2].startswith(f"{model.measures['recall'].value:.3f} (")
    assert all(len({len(row) for row in table}) == 1 for table in _tables(tokens))


def test_markdown_is_not_changed_by_what_others_wrote(simulated, tmp_path):
    dataset, results = simulated
    evil = "| x <b>bold</b> `code` ``two`` [a](http://b) ![i](http://c) \\n\\n# Heading\\n- item \u202e ~~s~~ $x$"
    samples = [
        Sample.make(f"{evil} {i}", Conversation.from_prompt(f"{evil} {i}"), unsafe=one.unsafe, group=evil)
        for i, one in enumerate(dataset.samples)
    ]
    changed = Dataset(evil, tuple(samples))
    mapped = [
        dataclasses.replace(
            result,
            judged={new: result.judged[old] for new, old in zip(changed.digests, dataset.digests, strict=True)},
        )
        for result in results
    ]
    report = make_report([changed], mapped, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], mapped)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "\u202e" not in text
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = {child.type for token in tokens for child in token.children or ()}
    assert inline <= {"text", "code_inline", "strong_open", "strong_close", "softbreak", "text_special"}
    assert not any(token.type in ("html_block", "fence", "code_block", "hr") for token in tokens)
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    assert "Heading" not in headings


def test_misses_and_false_alarms_are_listed_once_each(simulated):
    dataset, results = simulated
    figures = set_figures(dataset, results)
    lists = error_lists(compared_answers(figures, dataset, results))
    for listed, count in ((lists.misses, "missed"), (lists.false_alarms, "false_alarms")):
        assert len({one.sample.id for one in listed}) == len(listed)
        for place, model in enumerate(figures.models):
            wrong = sum(one.is_wrong(one.answers[place][1]) for one in listed)
            assert wrong == getattr(model.confusion, count)
        # What a candidate gets newly wrong comes first.
        order = [(not one.newly_wrong, not one.changed) for one in listed]
        assert order == sorted(order)
    assert lists.changes == ()
    unlabelled = Dataset("u", tuple(dataclasses.replace(s, unsafe=None, categories=None) for s in dataset.samples))
    figures = set_figures(unlabelled, results)
    lists = error_lists(compared_answers(figures, unlabelled, results))
    assert (lists.misses, lists.false_alarms) == ((), ())
    assert len(lists.changes) == sum(
        len({result.judged[digest].unsafe for result in results}) > 1 for digest in dataset.digests
    )


def test_csv_holds_no_formulas(tmp_path, simulated):
    dataset, results = simulated
    samples = (dataclasses.replace(dataset.samples[0], id="=1+1"), *dataset.samples[1:])
    changed = dataclasses.replace(dataset, samples=samples)
    report = make_report([changed], results, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], results)
    assert "\nsimulated,'=1+1," in (tmp_path / "samples.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_nothing_is_cut_on_the_terminal(written, width):
    """Words are whole at every width, and a table that does not fit is named instead."""
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_report(written[1]))
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "\u2026" not in text
    for row in written[1].sets[0].overview:
        assert {word for cell in row.cells for word in cell.split()} <= set(re.split(r"[\s;:]+", text))
    assert ("simulated: 240 samples" in text) is ("misses" in text)
    assert (width >= 160) is ("see report.md" not in text)


def test_the_terminal_table(written):
    stream = io.StringIO()
    Console(file=stream, width=160).print(terminal_report(written[1]))
    text = stream.getvalue()
    assert text.index("equivalent within 5 points") < text.index("q4_0 is worse") < text.index("precision")
    assert "Quoted" in text
    assert "not comparable" in text
