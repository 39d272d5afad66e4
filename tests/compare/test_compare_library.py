"""The comparison as a library: the program of the documentation, and what importing it loads."""

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import visionward.compare
from visionward import compare
from visionward.convert import convert_checkpoint
from visionward.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"


@pytest.fixture
def folder(tiny_pair, tiny_checkpoint_dir, tmp_path):
    small = convert_checkpoint(tiny_checkpoint_dir, tmp_path / "small", text_type="q8_0", mmproj_type="q8_0")
    files = {
        tiny_pair.text: "guard-text-F16.gguf",
        tiny_pair.mmproj: "mmproj-guard-F16.gguf",
        small.text: "guard-text-Q8_0.gguf",
        small.mmproj: "mmproj-guard-Q8_0.gguf",
    }
    for source, name in files.items():
        shutil.copy(source, tmp_path / name)
    (tmp_path / "samples.jsonl").write_text(
        '{"prompt": "How do I draw the moon?", "label": "safe"}\n{"prompt": "And the sun?", "label": "unsafe"}\n'
    )
    return tmp_path


def test_the_program_of_the_documentation(folder):
    (program,) = re.findall(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    before = {path.name for path in folder.iterdir()}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert "q8_0: 2 of 2 samples" in found.stdout
    assert re.search(r"^q8_0 recall \d\.\d+ bytes \d+$", found.stdout, re.MULTILINE)
    assert {path.name for path in folder.iterdir()} - before == {"report"}
    assert {path.name for path in (folder / "report").iterdir()} >= {"report.html", "report.json", "samples.csv"}


def test_nothing_is_written_unless_asked(folder):
    plan = compare.ComparisonPlan(
        reference=compare.GuardFiles("a", folder / "guard-text-F16.gguf", folder / "mmproj-guard-F16.gguf"),
        candidates=(),
        datasets=(compare.read_dataset(folder / "samples.jsonl"),),
    )
    before = sorted(folder.rglob("*"))
    result = compare.run(plan)
    assert [model.name for model in result.report.sets[0].figures.models] == ["a"]
    assert sorted(folder.rglob("*")) == before


def test_what_is_raised_by_the_callback_ends_the_comparison(folder):
    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    plan = compare.ComparisonPlan(
        reference=compare.GuardFiles("a", folder / "guard-text-F16.gguf", folder / "mmproj-guard-F16.gguf"),
        candidates=(),
        datasets=(compare.read_dataset(folder / "samples.jsonl"),),
        work=folder / "work",
    )
    with pytest.raises(KeyboardInterrupt):
        compare.run(plan, stop)
    (journal,) = (folder / "work").glob("*.jsonl")
    assert journal.read_bytes().count(b'"kind": "judged"') == 1


def test_unknown_formats_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="unknown data format 'odd'; choose jsonl, beavertails-v"):
        compare.read_dataset(tmp_path, "odd")
    with pytest.raises(DataError, match="needs a folder for images"):
        compare.read_dataset(tmp_path, "vlguard")


def test_no_native_library_is_loaded():
    names = [module.name for module in pkgutil.walk_packages(visionward.compare.__path__, "visionward.compare.")]
    assert len(names) > 30
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'llama_cpp', 'scipy', 'sklearn', 'matplotlib', 'openai'} & set(sys.modules), name\n"
    )
    subprocess.run([sys.executable, "-c", program, *names], check=True, timeout=120)
