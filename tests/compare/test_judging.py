"""All models over all samples: a real, tiny pair against its 8-bit form, resumed and damaged."""

import dataclasses
import shutil

import numpy as np
import odd_guard_processes
import pytest
from comparison_recorder import Recorder
from PIL import Image

from visionward.compare import guard_run, judging
from visionward.compare.datasets import Dataset
from visionward.compare.divergence import kl_divergence
from visionward.compare.guard_run import arrays_of
from visionward.compare.html_report import html_report
from visionward.compare.journal import Journal
from visionward.compare.models import Endpoint, GuardFiles
from visionward.compare.plan import ComparisonPlan
from visionward.compare.report import make_report
from visionward.compare.report_json import report_dict
from visionward.compare.settings import GuardSettings
from visionward.convert import convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.errors import ComputeError, DataError, ModelFileError, PolicyError
from visionward.formats.onnx_format import data_path
from visionward.formats.tile_band import TileBand
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.guard import Guard
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample

SETTINGS = GuardSettings(DEFAULT_POLICY, 0.5, threads=1, feature_images=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    Image.effect_mandelbrot((40, 40), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(folder / "a.png")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    conversations = {
        "picture": Conversation.from_prompt("What is this?", None, folder / "a.png"),
        "response": Conversation.from_prompt("Hello?", "Good day."),
        "damaged": Conversation.from_prompt("And this?", None, folder / "damaged.png"),
        "again": Conversation.from_prompt("Hello?", "Good day."),
    }
    samples = [Sample.make(name, one, unsafe=name == "picture") for name, one in conversations.items()]
    return Dataset("tiny", tuple(samples))


@pytest.fixture(scope="module")
def pairs(tiny_pair, tiny_checkpoint_dir, tmp_path_factory):
    small = convert_checkpoint(tiny_checkpoint_dir, tmp_path_factory.mktemp("q8"), text_type="q8_0", mmproj_type="q8_0")
    return GuardFiles("f32", tiny_pair.text, tiny_pair.mmproj), GuardFiles("q8_0", small.text, small.mmproj)


def _judge_all(plan, progress=None):
    return judging.judge_all(plan, plan.work, progress)


def _plan(work, dataset, pairs, **changes):
    plan = ComparisonPlan(pairs[0], (pairs[1],), (dataset,), settings=SETTINGS, work=work)
    return dataclasses.replace(plan, **changes)


@pytest.mark.slow
def test_settings_reach_the_guard(tmp_path, pairs):
    """The tiny model does not answer with one tile, so that auto looks twice."""
    Image.effect_mandelbrot((100, 70), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(tmp_path / "large.png")
    shown = Conversation.from_prompt("What is this?", None, tmp_path / "large.png")
    dataset = Dataset("large", (Sample.make("large", shown, unsafe=True),))
    reference = pairs[0]
    auto = dataclasses.replace(reference, name="auto", max_tiles="auto", band=TileBand(0.5, 0.5))
    one = dataclasses.replace(reference, name="one", max_tiles=1)
    plan = dataclasses.replace(_plan(tmp_path, dataset, (reference, auto)), candidates=(auto, one))
    judged = [result.judged[dataset.digests[0]] for result in _judge_all(plan)]
    assert [(answer.tiles, answer.second_look) for answer in judged] == [(4, False), (4, True), (1, False)]
    assert judged[1].score == judged[0].score != judged[2].score
    assert judged[1].kl == 0.0 < judged[2].kl


def test_a_band_for_another_threshold_is_refused_before_anything_is_judged(tmp_path, dataset, pairs):
    auto = dataclasses.replace(pairs[1], max_tiles="auto", band=TileBand(0.6, 0.7))
    with pytest.raises(PolicyError, match="outside the band"):
        _judge_all(_plan(tmp_path, dataset, (pairs[0], auto)))
    assert list(tmp_path.glob("*.jsonl")) == []


def test_a_real_pair(tmp_path, dataset, pairs):
    plan = _plan(tmp_path, dataset, pairs, keep_logits=True)
    progress = Recorder()
    reference, candidate = _judge_all(plan, progress)
    picture, response, damaged, again = dataset.digests
    assert again == response
    assert len(reference.judged) == 3
    assert "damaged.png" in reference.judged[damaged].reason
    assert reference.judged[damaged].unsafe is None
    assert reference.judged[picture].kl is None
    assert reference.judged[picture].peak_bytes > 1e7
    assert 0 < reference.judged[picture].processors < 2
    assert set(reference.judged[picture].times_ms) == {"preprocess", "vision", "prefill", "decode", "total"}
    journal = Journal(tmp_path, "f32", guard_run.journal_key(pairs[0], SETTINGS, None))
    arrays = arrays_of(journal)
    assert len(list(arrays.folder.glob("*.logits.npy"))) == 2
    logits = arrays.read(f"{picture}.logits")
    assert logits.shape == (1, reference.loads[0].rows)
    seen = []
    with Guard.load(pairs[1].text, pairs[1].mmproj, threads=1) as guard:
        verdict = guard.classify(dataset.samples[0].conversation, observe=lambda row: seen.append(row.copy()))
        features = guard.engine.encode_image(dataset.samples[0].image)
    assert candidate.judged[picture].kl == pytest.approx(kl_divergence(logits[0], seen[0]), rel=1e-4)
    assert candidate.judged[picture].score == pytest.approx(verdict.score, rel=1e-5)
    expected = arrays_of(journal).read(f"{picture}.features")
    (found,) = candidate.features
    assert found.error == pytest.approx(np.linalg.norm(features - expected) / np.linalg.norm(expected), rel=1e-3)
    assert 0 < found.error < 0.1

    # Again: nothing is judged anew, and a third candidate finds the logits.
    progress = Recorder()
    third = GuardFiles("third", pairs[1].text, pairs[0].mmproj)
    results = _judge_all(dataclasses.replace(plan, candidates=(pairs[1], third)), progress)
    assert progress.begun == [("f32", 3, 3), ("q8_0", 3, 3), ("third", 0, 3)]
    assert progress.advanced == 3
    assert results[1].judged == candidate.judged
    assert results[2].features[0].error == pytest.approx(0, abs=1e-6)


def test_an_onnx_tower_is_a_candidate(tmp_path, dataset, pairs):
    """The same pair with its tower in eight bits, against the engine asked directly."""
    tower = export_tower(pairs[0].mmproj, tmp_path / "vision-int8.onnx", weight_type="int8")
    towered = dataclasses.replace(pairs[0], name="int8", tower=tower)
    plan = _plan(tmp_path / "work", dataset, (pairs[0], towered), keep_logits=True)
    plan.work.mkdir()
    results = _judge_all(plan)
    journal = Journal(plan.work, "f32", guard_run.journal_key(pairs[0], SETTINGS, None))
    picture = dataset.digests[0]
    with Guard.load(towered.text, towered.mmproj, threads=1, vision_backend="onnx", onnx_tower=tower) as guard:
        features = guard.engine.encode_image(dataset.samples[0].image)
        verdict = guard.classify(dataset.samples[0].conversation)
    expected = arrays_of(journal).read(f"{picture}.features")
    (found,) = results[1].features
    assert found.error == pytest.approx(np.linalg.norm(features - expected) / np.linalg.norm(expected), rel=1e-3)
    assert 1e-3 < found.error < 2e-2
    assert results[1].judged[picture].score == pytest.approx(verdict.score, rel=1e-5)

    report = make_report([dataset], results, threshold=0.5, margin=0.02)
    plain, with_tower = (model.cost for model in report.sets[0].figures.models)
    stored = tower.stat().st_size + data_path(tower).stat().st_size
    assert with_tower.tower_bytes == stored == towered.size - pairs[0].size
    assert with_tower.total_bytes == plain.total_bytes + stored
    assert report_dict(report, results)["models"][1]["onnx_tower"] == "vision-int8.onnx"
    assert "<th>ONNX<br>tower</th>" in html_report(report, [dataset], results)

    # The weights are half of the file: results of others are not its own.
    before = towered.identity()
    with data_path(tower).open("r+b") as file:
        file.write(bytes([file.read(1)[0] ^ 1]))
    assert towered.identity() != before
    missing = dataclasses.replace(towered, tower=tmp_path / "missing.onnx")
    with pytest.raises(ModelFileError, match=r"missing\.onnx"):
        _judge_all(_plan(plan.work, dataset, (pairs[0], missing)))


def test_removed_logits_are_made_again(tmp_path, dataset, pairs):
    plan = _plan(tmp_path, dataset, pairs)
    _judge_all(plan)
    assert not list(tmp_path.glob("*.arrays"))
    progress = Recorder()
    _judge_all(plan, progress)
    assert progress.advanced == 0
    third = GuardFiles("third", pairs[1].text, pairs[0].mmproj)
    _judge_all(dataclasses.replace(plan, candidates=(pairs[1], third)), progress)
    assert any("2 samples are judged again" in note for note in progress.notes)
    assert progress.begun[-3:] == [("f32", 1, 3), ("q8_0", 3, 3), ("third", 0, 3)]


@pytest.fixture(scope="module")
def judged(tmp_path_factory, dataset, pairs):
    """A finished comparison whose arrays were kept; copy its folder."""
    plan = _plan(tmp_path_factory.mktemp("judged"), dataset, pairs, keep_logits=True)
    return plan, _judge_all(plan)[1]


def test_damaged_arrays_are_made_again(tmp_path, judged):
    """And only those: the candidate's figures are the ones that it has with whole arrays."""
    plan, expected = judged
    work = shutil.copytree(plan.work, tmp_path / "work")
    picture, response, *_ = plan.datasets[0].digests
    (logits,) = work.glob(f"*.arrays/{response}.logits.npy")
    (features,) = work.glob(f"*.arrays/{picture}.features.npy")
    logits.write_bytes(bytes(logits.stat().st_size))
    features.write_bytes(features.read_bytes()[:-1])
    third, progress = dataclasses.replace(plan.candidates[0], name="third"), Recorder()
    results = _judge_all(dataclasses.replace(plan, candidates=(third,), work=work), progress)
    assert progress.begun == [("f32", 1, 3), ("third", 0, 3)]
    assert any("2 samples are judged again" in note for note in progress.notes)
    assert results[1].judged[response].kl == pytest.approx(expected.judged[response].kl)
    assert results[1].features[0].error == pytest.approx(expected.features[0].error)


def test_features_that_were_not_compared_before_an_interruption(tmp_path, judged):
    """The last lines of the journals are lost, which are those of the features: they are made again."""
    plan, expected = judged
    work = shutil.copytree(plan.work, tmp_path / "work")
    for path in work.glob("*.jsonl"):
        *lines, last = path.read_bytes().splitlines(keepends=True)
        assert b"features" in last
        path.write_bytes(b"".join(lines))
    progress = Recorder()
    again = _judge_all(dataclasses.replace(plan, work=work), progress)[1]
    assert progress.advanced == 0
    assert again.features == expected.features


def _samples(*texts):
    made = [Sample.make(text, Conversation.from_prompt(text), unsafe=i % 2 == 0) for i, text in enumerate(texts)]
    return {sample.digest(): sample for sample in made}


def _odd_plan(tmp_path, monkeypatch, process, *names):
    monkeypatch.setattr(guard_run, "run_guard", process)
    monkeypatch.setattr(judging, "_vocabulary", lambda _: 8)
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        path.write_bytes(b"GGUF" * 10)
    reference, *candidates = (GuardFiles(name, *paths) for name in names)
    dataset = Dataset("odd", tuple(_samples("one", "two").values()))
    return _plan(tmp_path / "work", dataset, (reference, reference), candidates=tuple(candidates)), dataset


def test_every_candidate_is_opened_before_the_first_sample(tmp_path, monkeypatch):
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_guard_processes.opening_guard, "f16", "good", "bad", "worse bad")
    progress = Recorder()
    with pytest.raises(
        ComputeError, match=r"no sample was judged, because 2 of 3 candidates .* bad: .*no good; worse bad: "
    ):
        _judge_all(plan, progress)
    assert progress.begun == []
    assert not any(b"judged" in path.read_bytes() for path in plan.work.glob("*.jsonl"))
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.dying_guard)
    with pytest.raises(ComputeError, match=r"good: the process died \(exit code 9\) while it loaded the model"):
        _judge_all(plan, progress)


def test_pairs_without_anything_to_do_are_not_opened(tmp_path, monkeypatch):
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_guard_processes.crashing_guard, "f16", "bad")
    _judge_all(plan)
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.dying_guard)
    assert [result.given_up for result in _judge_all(plan)] == [None, None]


def test_an_endpoint_that_cannot_be_asked_is_found_first(tmp_path, monkeypatch):
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_guard_processes.crashing_guard, "f16")
    settings = dataclasses.replace(SETTINGS, policy=DEFAULT_POLICY.exclude(["S5"]))
    endpoint = Endpoint.parse("other=http://127.0.0.1:1/v1,m", "guard")
    progress = Recorder()
    with pytest.raises(DataError, match="its own policy"):
        _judge_all(dataclasses.replace(plan, endpoints=(endpoint,), settings=settings), progress)
    assert progress.begun == []


def test_a_reference_that_cannot_be_used_ends_it(tmp_path, dataset, pairs):
    with pytest.raises(ComputeError, match="the reference mixed cannot be run: "):
        _judge_all(_plan(tmp_path, dataset, (GuardFiles("mixed", pairs[0].mmproj, pairs[0].text), pairs[1])))
    missing = dataclasses.replace(pairs[1], text=tmp_path / "missing.gguf")
    with pytest.raises(ModelFileError, match=r"missing\.gguf"):
        _judge_all(_plan(tmp_path, dataset, (pairs[0], missing)))


def test_one_at_a_time(tmp_path, dataset, pairs):
    from visionward.compare.judging import _only_one  # noqa: PLC0415

    with _only_one(tmp_path), pytest.raises(DataError, match="another comparison is running"):
        _judge_all(_plan(tmp_path, dataset, pairs))
