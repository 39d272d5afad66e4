"""Runs: journals, resuming, crashes; and a real, tiny pair against its own 8-bit form."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import odd_processes
import pytest
from PIL import Image

from visionward.compare import guard_run, judging
from visionward.compare.array_store import ArrayStore
from visionward.compare.datasets import Dataset
from visionward.compare.divergence import kl_divergence
from visionward.compare.guard_run import arrays_of, judge_with_guard
from visionward.compare.html_report import html_report
from visionward.compare.journal import FeatureError, Journal, Judged, Loaded
from visionward.compare.models import Endpoint, GuardFiles, check_names
from visionward.compare.plan import ComparisonPlan
from visionward.compare.report import make_report
from visionward.compare.report_json import report_dict
from visionward.compare.settings import GuardSettings
from visionward.convert import convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.errors import ComputeError, DataError, ModelFileError
from visionward.formats.onnx_format import data_path
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.guard import Guard
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample

SETTINGS = GuardSettings(DEFAULT_POLICY, 0.5, threads=1, feature_images=1)


class Recorder(logging.Handler):
    """Remembers what it was told: where each model began, how many samples followed, and what was logged."""

    def __init__(self):
        super().__init__()
        self.begun, self.advanced, self.notes = [], 0, []
        logging.getLogger("visionward.compare").addHandler(self)

    def __call__(self, progress):
        assert progress.unit == "samples"
        if self.begun and self.begun[-1][0] == progress.stage:
            self.advanced += 1
        else:
            self.begun.append((progress.stage, progress.done, progress.total))

    def emit(self, record):
        self.notes.append(record.getMessage())


@pytest.fixture(autouse=True)
def _notes():
    logger = logging.getLogger("visionward.compare")
    before = list(logger.handlers)
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)
    logger.handlers[:] = before


def _samples(*texts):
    made = [Sample.make(text, Conversation.from_prompt(text), unsafe=i % 2 == 0) for i, text in enumerate(texts)]
    return {sample.digest(): sample for sample in made}


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        path.write_bytes(b"GGUF" * 10)
    return GuardFiles("model", *paths)


def test_journal_keeps_everything(tmp_path):
    journal = Journal(tmp_path, "my/model", {"a": 1})
    entries = [
        Loaded(1.5, 12, "CPU", 2),
        Judged("x", unsafe=True, score=0.75, categories=("S1", "S9"), times_ms={"total": 3.0}, kl=0.5),
        Judged("y", reason="no such file"),
        FeatureError("x", 0.01),
    ]
    for entry in entries:
        journal.append(entry)
    journal.close()
    again = Journal(tmp_path, "my/model", {"a": 1})
    assert (again.loaded, again.judged["x"], again.judged["y"], again.features["x"]) == tuple(
        [entries[0]] if i == 0 else entry for i, entry in enumerate(entries)
    )
    assert again.damaged == 0
    assert "/" not in again.path.name


def test_a_half_written_line_is_dropped(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.append(Judged("x", unsafe=False, score=0.1))
    journal.append(Judged("y", unsafe=False, score=0.1))
    journal.close()
    whole = journal.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1]) + 1):
        journal.path.write_bytes(whole[:-cut])
        again = Journal(tmp_path, "m", {})
        assert list(again.judged) == ["x"]
        again.append(Judged("z", unsafe=True, score=1.0))
        again.close()
        assert list(Journal(tmp_path, "m", {}).judged) == ["x", "z"]


def test_a_damaged_line_counts_as_missing(tmp_path):
    """Whatever bit of a line is wrong: what it said is judged again, and is never another verdict."""
    journal = Journal(tmp_path, "m", {})
    entries = [Judged(name, unsafe=True, score=0.75, categories=("S1",)) for name in ("x", "y", "z")]
    for entry in entries:
        journal.append(entry)
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines[1]) - 1):
        for bit in (0, 3, 6):
            changed = bytearray(lines[1])
            changed[place] ^= 1 << bit
            journal.path.write_bytes(lines[0] + bytes(changed) + lines[2])
            again = Journal(tmp_path, "m", {})
            assert again.judged == {"x": entries[0], "z": entries[2]}, bytes(changed)
            assert again.damaged


def test_lines_of_another_version_count_as_missing(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.path.write_text('{"version": 1, "kind": "judged", "sample": "x", "unsafe": false, "score": 0.1}\n')
    again = Journal(tmp_path, "m", {})
    assert (again.judged, again.damaged) == ({}, 1)


def test_arrays_are_whole_or_missing(tmp_path):
    store = ArrayStore(tmp_path / "arrays")
    values = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    assert store.read("x") is None
    store.folder.mkdir()
    store.write("x", values)
    np.testing.assert_array_equal(store.read("x"), values)
    (path,) = store.folder.iterdir()
    np.testing.assert_array_equal(np.load(path), values)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [whole[:cut] + bytes(len(whole) - cut) for cut in range(0, len(whole), 7)]
    damaged += [whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    for data in damaged:
        path.write_bytes(data)
        assert store.read("x") is None
    store.write("x", values)
    np.testing.assert_array_equal(store.read("x"), values)
    (store.folder / ".y.npy.0000.part").write_bytes(whole[:9])
    store.remove()
    assert not store.folder.exists()


def test_an_interrupted_array_has_no_name(tmp_path, monkeypatch):
    store = ArrayStore(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.write("x", np.ones(3, np.float32))
    assert not list(tmp_path.iterdir())


def test_other_settings_are_not_mixed(tmp_path):
    one, other = Journal(tmp_path, "m", {"threshold": 0.5}), Journal(tmp_path, "m", {"threshold": 0.6})
    one.append(Judged("x", unsafe=False, score=0.1))
    assert other.path != one.path
    assert other.judged == {}
    assert other.others() == [one.path]
    assert Journal(tmp_path, "m-2", {}).others() == []


def test_changed_files_have_another_identity(files):
    before = files.identity()
    assert files.identity() == before
    files.mmproj.write_bytes(b"GGUF" * 11)
    assert files.identity() != before


def test_a_crash_costs_one_sample(tmp_path, files, monkeypatch):
    monkeypatch.setattr(guard_run, "run_guard", odd_processes.crashing_guard)
    samples = _samples("one", "crash here", "three", "crash again", "five")
    journal, progress = Journal(tmp_path, "m", {}), Recorder()
    assert judge_with_guard(files, samples, SETTINGS, journal, None, progress) is None
    reasons = [journal.judged[digest].reason for digest in samples]
    assert [reason is None for reason in reasons] == [True, False, True, False, True]
    assert "exit code 7" in reasons[1]
    assert progress.advanced == 5


def test_too_many_crashes_end_it(tmp_path, files, monkeypatch):
    monkeypatch.setattr(guard_run, "run_guard", odd_processes.crashing_guard)
    samples = _samples("one", "crash 1", "crash 2", "crash 3", "five")
    reason = judge_with_guard(files, samples, SETTINGS, Journal(tmp_path, "m", {}), None)
    assert reason == "the process died (exit code 7), 3 times"


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (odd_processes.dying_guard, "the process died (exit code 9) while it loaded the model"),
        (odd_processes.refusing_guard, "no good"),
    ],
)
def test_a_pair_that_cannot_be_used(tmp_path, files, monkeypatch, process, reason):
    monkeypatch.setattr(guard_run, "run_guard", process)
    journal = Journal(tmp_path, "m", {})
    assert reason in judge_with_guard(files, _samples("one"), SETTINGS, journal, None)
    assert journal.judged == {}


def test_an_interrupted_run_goes_on(tmp_path, files, monkeypatch):
    """Nothing is judged twice but the sample at hand, and none is lost."""
    monkeypatch.setattr(guard_run, "run_guard", odd_processes.slow_guard)
    samples = _samples(*"abcdefg")
    journal = Journal(tmp_path, "m", {})
    messages = guard_run._messages

    def interrupted(connection):
        for message in messages(connection):
            if isinstance(message, KeyboardInterrupt):
                raise message
            yield message

    monkeypatch.setattr(guard_run, "_messages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge_with_guard(files, samples, SETTINGS, journal, None)
    journal.close()
    assert list(journal.judged) == list(samples)[:3]
    arrays_of(journal).folder.with_suffix(".go-on").touch()
    again, progress = Journal(tmp_path, "m", {}), Recorder()
    assert judge_with_guard(files, samples, SETTINGS, again, None, progress) is None
    assert list(again.judged) == list(samples)
    assert progress.begun == [("model", 3, 7)]
    asked = arrays_of(journal).folder.with_suffix(".asked").read_text().split()
    assert asked[-4:] == list(samples)[3:]


def test_names_and_forms(files):
    parsed = GuardFiles.parse("q4=/a,b/text.gguf,/c/mmproj.gguf")
    assert parsed == GuardFiles("q4", Path("/a,b/text.gguf"), Path("/c/mmproj.gguf"))
    assert GuardFiles.parse("/x=y/text.gguf,/c/m.gguf").text == Path("/x=y/text.gguf")
    assert GuardFiles.parse("models/guard-Q8_0.gguf,m.gguf").name == "guard-Q8_0"
    three = GuardFiles.parse("models/guard-Q8_0.gguf,m.gguf, vision-guard-int8.onnx")
    assert three == GuardFiles(
        "guard-Q8_0 vision-guard-int8", Path("models/guard-Q8_0.gguf"), Path("m.gguf"), Path("vision-guard-int8.onnx")
    )
    assert GuardFiles.parse("i8=t.gguf,m.gguf,v.ONNX") == GuardFiles(
        "i8", Path("t.gguf"), Path("m.gguf"), Path("v.ONNX")
    )
    for bad in ("", "text.gguf", "a=,b", "a=text.gguf,", "a=text.gguf,v.onnx", "a=,m.gguf,v.onnx", "v.onnx"):
        with pytest.raises(DataError):
            GuardFiles.parse(bad)
    assert Endpoint.parse("gpt=https://host/v1/,org/m,odel", "zero-shot").model == "org/m,odel"
    for bad in ("gpt", "gpt=host,m", "gpt=ftp://h,m", "=http://h,m", "gpt=http://h", "gpt=http://u:p@h/v1,m"):
        with pytest.raises(DataError):
            Endpoint.parse(bad, "guard")
    with pytest.raises(DataError, match="two models are named 'model'"):
        check_names([files, files])
    with pytest.raises(ModelFileError):
        dataclasses.replace(files, text=Path("missing.gguf")).identity()


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
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_processes.opening_guard, "f16", "good", "bad", "worse bad")
    progress = Recorder()
    with pytest.raises(
        ComputeError, match=r"no sample was judged, because 2 of 3 candidates .* bad: .*no good; worse bad: "
    ):
        _judge_all(plan, progress)
    assert progress.begun == []
    assert not any(b"judged" in path.read_bytes() for path in plan.work.glob("*.jsonl"))
    monkeypatch.setattr(guard_run, "run_guard", odd_processes.dying_guard)
    with pytest.raises(ComputeError, match=r"good: the process died \(exit code 9\) while it loaded the model"):
        _judge_all(plan, progress)


def test_pairs_without_anything_to_do_are_not_opened(tmp_path, monkeypatch):
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_processes.crashing_guard, "f16", "bad")
    _judge_all(plan)
    monkeypatch.setattr(guard_run, "run_guard", odd_processes.dying_guard)
    assert [result.given_up for result in _judge_all(plan)] == [None, None]


def test_an_endpoint_that_cannot_be_asked_is_found_first(tmp_path, monkeypatch):
    plan, _ = _odd_plan(tmp_path, monkeypatch, odd_processes.crashing_guard, "f16")
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


def test_journal_lines_are_json(tmp_path):
    journal = Journal(tmp_path, "m", {})
    journal.append(Judged("x", unsafe=True, score=0.1))
    (line,) = journal.path.read_text().splitlines()
    assert json.loads(line)["kind"] == "judged"
