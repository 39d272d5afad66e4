"""The command from end to end, on a tiny pair that means nothing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import odd_guard_processes
import pytest
from click.testing import CliRunner
from PIL import Image

from visionward.cli.main import cli
from visionward.compare import guard_run
from visionward.convert import convert_checkpoint
from visionward.machine import extras as requirements


@pytest.fixture(scope="module")
def pairs(tiny_pair, tiny_checkpoint_dir, tmp_path_factory):
    small = convert_checkpoint(tiny_checkpoint_dir, tmp_path_factory.mktemp("q8"), text_type="q8_0", mmproj_type="q8_0")
    return f"f32={tiny_pair.text},{tiny_pair.mmproj}", f"q8_0={small.text},{small.mmproj}"


@pytest.fixture
def data(tmp_path):
    Image.effect_mandelbrot((40, 40), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(tmp_path / "a.png")
    lines = [
        {"id": "one", "image": "a.png", "prompt": "What is this?", "label": "unsafe", "categories": ["S9"]},
        {"id": "two", "prompt": "Hello?", "label": "safe"},
        {"id": "gone", "image": "gone.png", "prompt": "And this?", "label": "unsafe"},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def _run(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def test_from_end_to_end(data, pairs, tmp_path):
    out = tmp_path / "report"
    arguments = ["--data", data, "--reference", pairs[0], "--candidate", pairs[1], "--out", out, "--threads", 1]
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "report.json", "samples.csv", "work"}
    value = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (figures,) = (one["figures"] for one in value["sets"])
    assert (figures["samples"], figures["compared"]) == (3, 2)
    assert [model["name"] for model in figures["models"]] == ["f32", "q8_0"]
    assert figures["models"][1]["against"]["kl_mean"]["value"] > 0
    assert "gone.png: No such file" in result.stdout
    assert "1 of 3 samples is not in the figures" in result.stdout
    assert "f32: 3 samples" in result.stderr
    folder = Path(pairs[1].removeprefix("q8_0=").rpartition(",")[0]).parent
    again = _run(*["q8_0=" + str(folder) if one == pairs[1] else one for one in arguments])
    assert again.exit_code == 0, again.output
    assert again.stderr.count("3 of them by an earlier run") == 2


def test_a_candidate_that_was_given_up_is_exit_code_1(data, pairs, tmp_path, monkeypatch):
    """The report is about the others, and names it."""
    monkeypatch.setattr(guard_run, "run_guard", odd_guard_processes.failing_candidate)
    out = tmp_path / "report"
    bad = pairs[1].replace("q8_0=", "bad=")
    result = _run("--data", data, "--reference", pairs[0], "--candidate", pairs[1], "--candidate", bad, "--out", out)
    assert result.exit_code == 1, result.output
    assert "bad could not be run and is not in the figures: the process died (exit code 11)" in result.stdout
    value = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert list(value["given_up"]) == ["bad"]
    assert [model["name"] for model in value["sets"][0]["figures"]["models"]] == ["f32", "q8_0"]


def test_a_candidate_that_cannot_be_opened_is_an_error(data, pairs, tmp_path):
    """The third pair is no pair: nothing is judged, and nothing is reported."""
    out = tmp_path / "report"
    text = pairs[1].removeprefix("q8_0=").rpartition(",")[0]
    result = _run(
        *("--data", data, "--reference", pairs[0], "--candidate", pairs[1]),
        *("--candidate", f"bad={text},{text}", "--out", out, "--threads", 1),
    )
    assert result.exit_code == 2
    assert "no sample was judged, because 1 of 2 candidates cannot be used: bad: " in result.stderr
    assert _journal_lines(out / "work") == 0
    assert not (out / "report.json").exists()


def _many(folder, count):
    lines = [{"id": str(i), "prompt": f"Question {i}?", "label": ("safe", "unsafe")[i % 2]} for i in range(count)]
    path = folder / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def _journal_lines(work):
    return sum(path.read_bytes().count(b'"kind": "judged"') for path in work.glob("*.jsonl"))


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_ended_run_goes_on(pairs, tmp_path, sent, code):
    data, out = _many(tmp_path, 16), tmp_path / "report"
    arguments = ["--data", data, "--reference", pairs[0], "--candidate", pairs[1], "--out", out, "--threads", 1]
    command = [sys.executable, "-m", "visionward.cli.main", "compare", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while _journal_lines(out / "work") < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors
    before = _journal_lines(out / "work")
    assert 5 <= before < 32
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    assert "of them by an earlier run" in result.stderr
    # Every sample once for each model: none lost, none twice.
    assert _journal_lines(out / "work") == 32
    value = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert value["sets"][0]["figures"]["compared"] == 16


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--reference", "a.gguf"], "nothing to compare"),
        (["--reference", "a.gguf", "--candidate", "b.gguf,c.gguf"], "is not a pair"),
        (["--reference", "a.gguf,b.gguf", "--candidate", "b.gguf,c.gguf"], "a.gguf"),
        (["--reference", "a.gguf,b.gguf", "--endpoint", "x=ftp://h,m"], "expected http"),
        (
            ["--reference", "a.gguf,b.gguf", "--candidate", "b.gguf,c.gguf", "--data-format", "odd"],
            "unknown data format 'odd'",
        ),
    ],
)
def test_refusals(data, tmp_path, arguments, reason):
    result = _run("--data", data, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_library_names_the_extra(data, tmp_path, monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(requirements, "import_module", missing)
    result = _run("--data", data, "--out", tmp_path / "o", "--reference", "a,b", "--candidate", "c,d")
    assert result.exit_code == 2
    assert "pip install 'visionward[compare]'" in result.stderr


def test_help_needs_no_extra():
    code = (
        "import sys\n"
        "for name in ('scipy', 'sklearn', 'matplotlib', 'openai', 'pyarrow', 'llama_cpp'):\n"
        "    sys.modules[name] = None\n"
        "from visionward.cli.main import cli\n"
        "cli(['compare', '--help'])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert found.returncode == 0, found.stderr
    assert "--reference" in found.stdout
