"""Running one pair in a child process: crashes and interruptions."""

import odd_guard_processes
import pytest
from comparison_recorder import Recorder

from visionward.compare import guard_run
from visionward.compare.guard_run import arrays_of, judge_with_guard
from visionward.compare.journal import Journal
from visionward.compare.settings import GuardSettings
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
