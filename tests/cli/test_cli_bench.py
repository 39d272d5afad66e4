"""The bench command: real runs of a small model, and what is printed of known ones."""

import hashlib
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_guard import SAFE, UNSAFE
from PIL import Image

from visionward.cli.bench_text import benchmark_lines, comparison_lines
from visionward.cli.main import cli
from visionward.convert import demo_guard
from visionward.diagnose import benchmark, benchmark_guard
from visionward.diagnose.benchmark import Measurement, Spread
from visionward.diagnose.benchmark_comparison import compare
from visionward.diagnose.benchmark_report import Benchmark
from visionward.diagnose.environment import native_library
from visionward.errors import ComputeError
from visionward.machine.process_memory import PeakMemory

ROWS = ["load", "preprocess", "vision", "prefill", "decode", "total", "repeat_total", "decode_token"]


class Fake:
    """A guard that takes no time, and what it was made and asked with."""

    device, threads, kernels = "CPU", 7, "plain"

    def __init__(self, verdict):
        self.verdict, self.loads, self.asked, self.error = verdict, [], [], None

    def load(self, *files, on_progress, **options):
        assert on_progress is None  # standard error is no terminal
        self.loads.append((files, options))
        return self

    def classify_new(self, image, prompt, _on_progress):
        self.asked.append((image, prompt))
        if self.error is not None:
            raise self.error
        return self.verdict

    def classify_again(self, _image, _prompt, _on_progress):
        return self.verdict

    def token_times(self, _image, _prompt, count):
        return [12.5] * count

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    """In place of the real guard."""
    guard = Fake(replace(SAFE, tiles=4))
    monkeypatch.setattr(benchmark_guard, "BenchmarkGuard", guard.load)
    return guard


@pytest.fixture
def demo(tiny_pair, monkeypatch):
    """A tiny pair in place of the demonstration guard's."""
    monkeypatch.setattr(demo_guard, "demo_pair", lambda: tiny_pair)
    return tiny_pair


@pytest.fixture
def tables(model, fake):  # noqa: ARG001 - in place of the real guard
    """``tables(*arguments)``: JSON of a run with known times."""

    def run_json(run, *arguments):
        result = run("bench", *model, "--json", *arguments)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return run_json


def test_the_demonstration_guard_end_to_end(program, tmp_path):
    first = program("bench", "--demo", "--json", "--runs", 4, "--threads", 1)
    assert (first.returncode, first.stderr) == (0, "")
    values = json.loads(first.stdout)
    times, facts = values["times_ms"], values["environment"]
    assert (values["program"], values["format_version"]) == ("visionward bench", 2)
    assert list(times) == ROWS
    for row, spread in times.items():
        assert len(spread["values"]) == {"load": 3, "decode_token": 16}.get(row, 4)
        assert spread["min"] == min(spread["values"])
        assert spread["median"] == pytest.approx(statistics.median(spread["values"]))
        assert spread["p95"] == pytest.approx(statistics.quantiles(spread["values"], n=20, method="inclusive")[18])
    for stages in zip(*(times[row]["values"] for row in ROWS[1:6]), strict=True):
        # The total is what its stages take, and a little between them.
        assert sum(stages[:4]) <= stages[4] <= sum(stages[:4]) + 500
    # Four tiles are looked at in the first kind of run and not in the second.
    assert times["vision"]["min"] > 1
    assert times["repeat_total"]["min"] < times["total"]["min"]
    assert values["rates"]["decode_tokens_per_s"] == pytest.approx(1000 / times["decode_token"]["median"])
    assert values["rates"]["prefill_tokens_per_s"] == pytest.approx(
        facts["prompt"]["tokens"] * 1000 / times["prefill"]["median"]
    )
    assert (facts["image"]["name"], facts["image"]["tiles"]) == ("synthetic", 4)
    assert (facts["settings"]["threads"], facts["settings"]["vision_backend"]) == (1, "ggml")
    assert facts["text"]["file_type"] == facts["mmproj"]["file_type"] == "F16"
    assert facts["library"]["ggml_commit"] == native_library().ggml_commit
    memory = values["peak_memory_bytes"]
    if sys.platform == "linux":
        # Both files are mapped or copied, and nobody holds a gigabyte for them.
        size = facts["text"]["nbytes"] + facts["mmproj"]["nbytes"]
        assert size < memory["total"] < 10**9
        assert 0 < memory["anonymous"] <= memory["total"]
        assert 0 < memory["file"] <= memory["total"]

    (tmp_path / "old.json").write_text(first.stdout)
    second = program("bench", "--demo", "--runs", 1, "--warmup", 0, "--threads", 1, "--against", tmp_path / "old.json")
    assert (second.returncode, second.stderr) == (0, "")
    assert "Against old.json (ratios are new / old)" in second.stdout
    differing = second.stdout.partition("The environment differs")[2].splitlines()[1:]
    assert [line.strip() for line in differing] == ["settings runs: 4 -> 1", "settings warmup: 1 -> 0"]


@pytest.mark.usefixtures("demo")
def test_options_reach_the_guard(run, fake, picture):
    options = ("--threads", 3, "--gpu-layers", 0, "--n-ctx", 700, "--runs", 2, "--warmup", 3, "--prompt", "hello")
    result = run("bench", "--demo", "--image", picture, *options, "--json")
    assert result.exit_code == 0, result.stderr
    demo = demo_guard.demo_pair()
    assert [files for files, _ in fake.loads] == [(demo.text, demo.mmproj)] * 2
    asked = {"threads": 3, "gpu_layers": 0, "n_ctx": 700}
    assert all(options.items() >= asked.items() for _, options in fake.loads)
    assert fake.asked == [(picture, "hello")] * 5
    facts = json.loads(result.stdout)["environment"]
    # Whatever else the shared options hold one day is there too.
    expected = {"threads": 7, "gpu_layers": 0, "n_ctx": 700, "device": "CPU", "vision_backend": "ggml", "runs": 2}
    assert facts["settings"].items() >= (expected | {"warmup": 3}).items()
    assert facts["image"] == {
        "name": picture.name,
        "width": 40,
        "height": 40,
        "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
        "tiles": 4,
    }
    assert facts["prompt"] == {"sha256": hashlib.sha256(b"hello").hexdigest(), "tokens": 200}


def test_defaults_are_those_of_the_library(run, fake, model):
    assert run("bench", *model).exit_code == 0
    prompts = {prompt for _, prompt in fake.asked}
    options = {parameter.name: parameter for parameter in cli.get_command(None, "bench").params}
    assert prompts == {benchmark.DEFAULT_PROMPT}
    assert benchmark.DEFAULT_PROMPT in options["prompt"].help
    assert options["runs"].default == benchmark.DEFAULT_RUNS
    assert options["warmup"].default == benchmark.DEFAULT_WARMUP
    assert len(fake.asked) == benchmark.DEFAULT_RUNS + benchmark.DEFAULT_WARMUP


def test_files_are_described(run, tables, tiny_pair):
    facts = tables(run)["environment"]
    summary = json.loads(run("inspect", "--model", tiny_pair.text, "--mmproj", tiny_pair.mmproj, "--json").stdout)
    for name in ("text", "mmproj"):
        file = summary[name]["file"]
        assert facts[name]["nbytes"] == getattr(tiny_pair, name).stat().st_size == file["nbytes"]
        assert facts[name]["text_hash"] == file["text_hash"]
        assert facts[name]["file_type"] == "F32"
        assert facts[name]["types"] == f"F32:{file['types'][0]['nbytes']}"
    report = json.loads(run("doctor", "--json").stdout)
    assert facts["machine"]["processor"] == report["processor"]["model"]
    assert facts["machine"]["physical_cores"] == report["physical_cores"]
    assert facts["library"]["llama-cpp-python"] == report["packages"]["llama-cpp-python"]
    assert facts["library"]["build"] == report["library"]["build"]


def test_json_against(run, tables, tmp_path):
    old = tables(run)
    (tmp_path / "old.json").write_text(json.dumps(old))
    new = tables(run, "--runs", 2, "--against", tmp_path / "old.json")
    against = new["against"]
    assert against["old"] == old
    assert against["differences"] == [{"name": "settings runs", "old": 5, "new": 2}]
    assert against["ratios"]["times_ms"]["vision"] == {"min": 1, "median": 1, "p95": 1}
    assert against["ratios"]["rates"]["decode_tokens_per_s"] == {"value": 1}
    # What came out can be compared with in its turn, and does not grow.
    (tmp_path / "new.json").write_text(json.dumps(new))
    third = tables(run, "--against", tmp_path / "new.json")
    assert "against" not in third["against"]["old"]


KNOWN = Measurement(
    times_ms={
        "load": Spread.of([2300.0]),
        "preprocess": Spread.of([40.0]),
        "vision": Spread.of([230_000.0]),
        "prefill": Spread.of([35_000.0]),
        "decode": Spread.of([0.011]),
        "total": Spread.of([265_040.0]),
        "decode_token": Spread.of([400.0]),
    },
    memory=PeakMemory(9_400_000_000, 1_600_000_000, None),
    verdict=replace(SAFE, tiles=4),
    device="CPU",
    threads=2,
    kernels="packed",
    other_cores=0.02,
)


def known(tables, run, **changes):
    """Plain values with known figures."""
    values = tables(run)
    environment = values["environment"]
    environment["machine"]["processor"] = "Abacus 9000"
    return Benchmark(replace(KNOWN, **changes), environment).to_dict()


def test_the_table(run, tables):
    lines = list(benchmark_lines(known(tables, run)))
    facts, table = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert facts[2] == "image              a synthetic picture, 1120 x 1120 pixels, 4 tiles"
    assert facts[3] == "prompt             200 tokens; verdict safe"
    assert "processor          Abacus 9000, " in facts[4]
    assert facts[5] == "computed on        CPU, plain kernels, 7 threads; vision tower on ggml"
    assert table == [
        "                         min     median        p95       median rate",
        "load                 2300 ms    2300 ms    2300 ms",
        "preprocessing       40.00 ms   40.00 ms   40.00 ms",
        "vision               230.0 s    230.0 s    230.0 s    0.0174 tiles/s",
        "prefill               35.0 s     35.0 s     35.0 s     5.71 tokens/s",
        "decode               0.01 ms    0.01 ms    0.01 ms   nothing decoded",
        "total                265.0 s    265.0 s    265.0 s",
        "decode, per token     400 ms     400 ms     400 ms      2.5 tokens/s",
        "",
        "peak memory        9.40 GB",
        "  allocated        1.60 GB",
        "  mapped files     unknown",
    ]


def test_an_unsafe_verdict_and_its_tokens(run, fake, model):
    fake.verdict = replace(UNSAFE, tiles=1, vision_backend="ggml")
    text = run("bench", *model, "--runs", 1, "--warmup", 0).stdout
    assert "210 tokens; verdict unsafe, 6 tokens decoded" in text
    assert "1120 x 1120 pixels, 1 tile\n" in text
    assert "nothing decoded" not in text


def test_the_comparison(run, tables):
    old = known(tables, run)
    new = known(
        tables, run, times_ms=KNOWN.times_ms | {"vision": Spread.of([115_000.0]), "repeat_total": Spread.of([35_000.0])}
    )
    new["environment"]["settings"]["vision_backend"] = "openvino"
    new["environment"]["library"]["build"] = None
    new["environment"]["text"]["file"] = "red\x1b[31m" + "x" * 100
    lines = list(comparison_lines(old, new, compare(old, new), "old.json"))
    assert lines[0] == "Against old.json (ratios are new / old)"
    assert "vision                         230.0 s    115.0 s   0.50     0.50   0.50" in lines
    assert "vision, tiles/s                 0.0174     0.0348            2.00" in lines
    assert "repeat total                         -     35.0 s      -        -      -" in lines
    assert "peak memory                    9.40 GB    9.40 GB            1.00" in lines
    assert "  mapped files                       -          -               -" in lines
    assert "  settings vision_backend: ggml -> openvino" in lines
    assert lines[lines.index("The environment differs, which may explain the ratios:") - 1] == ""
    (build,) = (line for line in lines if "library build" in line)
    assert build.endswith("... -> none")
    (file,) = (line for line in lines if "text file:" in line)
    assert "red [31mxxx" in file
    assert file.endswith("xxx...")
    assert "\x1b" not in "".join(lines)


def test_nothing_but_the_figures_differs(run, tables):
    old = known(tables, run)
    assert list(comparison_lines(old, old, compare(old, old), "old.json"))[-1].startswith("The environment is the same")


def test_a_busy_machine(run, tables):
    quiet, busy, unknown = (known(tables, run, other_cores=cores) for cores in (0.1, 1.25, None))
    assert not any("Note" in line for values in (quiet, unknown) for line in benchmark_lines(values))
    assert list(benchmark_lines(busy))[-1] == (
        "Note: other programs kept 1.2 cores busy meanwhile, so the times may be too long."
    )
    lines = list(comparison_lines(busy, quiet, compare(busy, quiet), "old.json"))
    assert "Other programs kept 1.2 cores busy in the old run, so its times may be too long." in lines


def failure(result):
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    return result.stderr


def test_wrong_calls(run, model, tmp_path, picture):
    other = tmp_path / "other.json"
    other.write_text('{"verdict": "safe"}')
    text = tmp_path / "text.json"
    text.write_text("no such thing")
    assert "no model was given" in failure(run("bench"))
    assert "--demo and --model exclude each other" in failure(run("bench", *model, "--demo"))
    assert "0 is not in the range" in failure(run("bench", *model, "--runs", 0))
    assert "-1 is not in the range" in failure(run("bench", *model, "--warmup", -1))
    assert "--runs is given 2 times" in failure(run("bench", *model, "--runs", 1, "--runs", 2))
    assert "does not exist" in failure(run("bench", *model, "--image", tmp_path / "none.png"))
    assert "does not exist" in failure(run("bench", *model, "--against", tmp_path / "none.json"))
    assert "not a file that `visionward bench --json` wrote" in failure(run("bench", *model, "--against", other))
    assert "text.json: not JSON" in failure(run("bench", *model, "--against", text))
    assert "cannot be read" in failure(run("bench", *model[:2], "--mmproj", Path("none.gguf"), "--image", picture))


def test_the_old_file_is_read_before_anything_is_measured(run, fake, model, tmp_path):
    (tmp_path / "old.json").write_text("{}")
    failure(run("bench", *model, "--against", tmp_path / "old.json"))
    assert fake.loads == []


def test_real_errors_of_the_guard(run, model, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"no photograph")
    assert "not an image" in failure(run("bench", *model, "--image", tmp_path / "photo.jpg", "--json"))
    assert "more than the context holds" in failure(run("bench", *model, "--n-ctx", 5))


def test_failures(run, fake, model):
    fake.error = ComputeError("out of memory")
    assert failure(run("bench", *model, "--json")) == "error: out of memory\n"
    fake.error = KeyboardInterrupt()
    result = run("bench", *model)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_a_large_picture_of_ones_own(run, model, tmp_path):
    path = tmp_path / "wide.png"
    Image.effect_mandelbrot((400, 100), (-2, -1, 1, 1), 50).convert("RGB").save(path)
    result = run("bench", *model, "--image", path, "--runs", 1, "--warmup", 0, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["environment"]
    with_classify = json.loads(run("classify", *model, "--image", path, "--prompt", "x", "--json").stdout)
    assert facts["image"]["tiles"] == with_classify["tiles"]
