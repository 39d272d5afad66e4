"""Running one pair in a child process: crashes and interruptions."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import odd_guard_processes
import pytest
from comparison_recorder import Recorder

from visionward import Guard
from visionward.compare import guard_run
from visionward.compare.guard_process import Task, run_guard
from visionward.compare.guard_run import arrays_of, judge_with_guard
from visionward.compare.journal import Journal
from visionward.compare.settings import GuardSettings
from visionward.errors import ComputeError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample

SETTINGS = GuardSettings(DEFAULT_POLICY, 0.5, threads=1, feature_images=1)


def _samples(*texts):
    made = [Sample.make(text, Conversation.from_prompt(text), unsafe=i % 2 == 0) for i, text in enumerate(texts)]
    return {sample.digest(): sample for sample in made}


def test_a_crash_costs_one_sample(tmp_path, files, monkeypatch):
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.crashing_guard)
    samples = _samples("one", "crash here", "three", "crash again", "five")
    journal, progress = Journal(tmp_path, "m", {}), Recorder()
    assert judge_with_guard(files, samples, SETTINGS, journal, None, progress) is None
    reasons = [journal.judged[digest].reason for digest in samples]
    assert [reason is None for reason in reasons] == [True, False, True, False, True]
    assert "exit code 7" in reasons[1]
    assert progress.advanced == 5


def test_too_many_crashes_end_it(tmp_path, files, monkeypatch):
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.crashing_guard)
    samples = _samples("one", "crash 1", "crash 2", "crash 3", "five")
    reason = judge_with_guard(files, samples, SETTINGS, Journal(tmp_path, "m", {}), None)
    assert reason == "the process died (exit code 7), 3 times"


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (odd_guard_processes.dying_guard, "the process died (exit code 9) while it loaded the model"),
        (odd_guard_processes.refusing_guard, "no good"),
    ],
)
def test_a_pair_that_cannot_be_used(tmp_path, files, monkeypatch, process, reason):
    monkeypatch.setattr(guard_run, "run_guard", process)
    journal = Journal(tmp_path, "m", {})
    assert reason in judge_with_guard(files, _samples("one"), SETTINGS, journal, None)
    assert journal.judged == {}


def test_an_interrupted_run_goes_on(tmp_path, files, monkeypatch):
    """Nothing is judged twice but the sample at hand, and none is lost."""
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.slow_guard)
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


@pytest.mark.parametrize(("tower", "vision_device"), [(None, "CUDA1"), (Path("t.onnx"), None)])
def test_devices_are_those_of_the_settings(tmp_path, files, monkeypatch, tower, vision_device):
    """One for the vision tower would be refused for a pair whose tower ONNX Runtime computes."""
    asked = {}

    def load(*_, **options):
        asked.update(options)
        raise ComputeError("enough")

    monkeypatch.setattr(Guard, "load", load)
    settings = replace(SETTINGS, device="CUDA0", vision_device="CUDA1", gpu_layers=7)
    run_guard(Task(replace(files, tower=tower), (), (), settings, tmp_path), SimpleNamespace(send=lambda _: None))
    assert {name: asked[name] for name in ("device", "vision_device", "gpu_layers")} == {
        "device": "CUDA0",
        "vision_device": vision_device,
        "gpu_layers": 7,
    }


def test_results_of_other_devices_are_other_results():
    keys = [replace(SETTINGS, **places).key() for places in ({}, {"device": "CPU"}, {"vision_device": "CPU"})]
    assert all(one != other for one, other in combinations(keys, 2))
    assert not {"device", "vision_device"} & keys[0].keys()
