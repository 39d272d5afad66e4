"""The files of a report: JSON and CSV."""

import csv
import dataclasses
import json
import re

import pytest

from visionward.compare.report import make_report
from visionward.compare.report_files import write_report
from visionward.compare.report_json import report_dict
from visionward.compare.samples_csv import COLUMNS
from visionward.errors import DataError


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


def test_csv_holds_no_formulas(tmp_path, simulated):
    dataset, results = simulated
    samples = (dataclasses.replace(dataset.samples[0], id="=1+1"), *dataset.samples[1:])
    changed = dataclasses.replace(dataset, samples=samples)
    report = make_report([changed], results, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], results)
    assert "\nsimulated,'=1+1," in (tmp_path / "samples.csv").read_text(encoding="utf-8")


def test_json_is_whole_and_strict(written, simulated):
    folder, report = written
    value = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert value["sets"][0]["figures"]["models"][0]["measures"]["f1"]["low"] is not None
    assert value["quoted"]["table_1"][0]["f1"] == 0.733
    assert value == json.loads(json.dumps(report_dict(report, simulated[1])))
