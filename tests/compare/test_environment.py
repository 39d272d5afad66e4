"""Hashes and versions that a report names."""

import dataclasses
import hashlib
import platform

from PIL import Image

from visionward.compare.datasets import Dataset
from visionward.compare.environment import environment, hashed_dataset, hashed_files
from visionward.compare.journal import Loaded
from visionward.compare.models import GuardFiles
from visionward.compare.plan import ComparisonPlan
from visionward.compare.results import ModelResults
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample


def _pairs(folder):
    contents = {"a.gguf": b"GGUF" * 3_000_000, "b.gguf": b"", "c.gguf": b"x"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    one = GuardFiles("one", folder / "a.gguf", folder / "b.gguf")
    return contents, (one, GuardFiles("two", folder / "c.gguf", folder / "b.gguf"))


def test_files_are_hashed_whole(tmp_path):
    contents, pairs = _pairs(tmp_path)
    steps = []
    found = hashed_files(pairs, steps.append)
    assert [(one.model, one.file) for one in found] == [
        ("one", "a.gguf"),
        ("one", "b.gguf"),
        ("two", "c.gguf"),
        ("two", "b.gguf"),
    ]
    for one in found:
        assert one.nbytes == len(contents[one.file])
        assert one.sha256 == hashlib.sha256(contents[one.file]).hexdigest()
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, 12_000_001, 12_000_001)
    assert {step.unit for step in steps} == {"bytes"}


def _dataset(folder, **changes):
    path = folder / "p.png"
    Image.new("RGB", (4, 4), changes.pop("colour", "red")).save(path)
    sample = Sample.make("id", Conversation.from_prompt("What?", None, path), unsafe=True, categories=["S1"], group="g")
    return Dataset("d", (dataclasses.replace(sample, **changes),))


def test_a_data_set_is_known_by_what_decides(tmp_path):
    base = hashed_dataset(_dataset(tmp_path)).sha256
    assert hashed_dataset(_dataset(tmp_path)).sha256 == base
    assert hashed_dataset(_dataset(tmp_path, id="other")).sha256 == base
    other = [
        {"unsafe": None},
        {"categories": frozenset(["S2"])},
        {"group": "h"},
        {"colour": "blue"},
        {"conversation": Conversation.from_prompt("Why?")},
    ]
    assert len({base, *(hashed_dataset(_dataset(tmp_path, **change)).sha256 for change in other)}) == 1 + len(other)


def test_the_environment_names_machine_and_builds(tmp_path):
    _, pairs = _pairs(tmp_path)
    plan = ComparisonPlan(pairs[0], pairs[1:], (_dataset(tmp_path),), command="visionward compare --data x")
    loads = [Loaded(1.0, 8, "CPU", 1, build) for build in (None, "build 1", "build 1")]
    found = environment(plan, [ModelResults(pairs[0], {}, tuple(loads))], hashed_files(pairs))
    assert found.llama_cpp == "build 1"
    assert found.python.endswith(platform.python_version())
    assert {"visionward", "llama-cpp-python", "numpy", "scipy"} <= set(found.packages)
    assert found.command == "visionward compare --data x"
    assert (found.datasets[0].name, found.datasets[0].samples) == ("d", 1)
    assert found.cores >= 1
