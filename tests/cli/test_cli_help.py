"""Help texts: complete, and the same in the docs."""

import logging
from pathlib import Path

import click
import pytest

from visionward.cli.main import cli
from visionward.cli.reference import reference

PROMPTED = ("--model", "t", "--mmproj", "m", "--prompt", "hello")
DOCUMENTED = {
    "demo": (),
    "convert": ("--text-type", "--mmproj-type", "--onnx", "--name", "--force"),
    "export-onnx": ("--type", "--force"),
    "classify": (
        *("--model", "--mmproj", "--demo", "--image", "--prompt", "--response", "--conversation", "--categories"),
        *("--exclude", "--threshold", "--threads", "--gpu-layers", "--category-scores", "--json", "--exit-code"),
        *("--kernels", "--vision-backend", "--onnx-tower", "--onnx-provider", "--memory-limit"),
        *("VISIONWARD_MODEL", "VISIONWARD_MMPROJ", "VISIONWARD_ONNX_TOWER"),
    ),
    "quantize": ("--imatrix", "--tensor-type", "--threads", "--allow-requantize", "--force"),
    "imatrix": (
        "--model",
        "--mmproj",
        "--data",
        "--out",
        "--limit",
        "--threads",
        "--gpu-layers",
        "--device",
        "--force",
    ),
    "inspect": ("--model", "--mmproj", "--demo", "--template", "--json"),
    "verify": ("--model", "--mmproj", "--demo", "--onnx-tower", "--files-only", "--json", "--threads", "--gpu-layers"),
    "serve": (
        *("--model", "--mmproj", "--demo", "--host", "--port", "--api-key-file", "--alias", "--allow-image-host"),
        *("--max-waiting", "--max-body", "--max-messages", "--max-images", "--deadline", "--grace"),
        *("--threshold", "--categories", "--exclude", "--threads", "--gpu-layers", "--memory-limit"),
    ),
    "scan": (
        *("--model", "--mmproj", "--demo", "--prompt", "--captions", "--sidecars", "--column", "--categories"),
        *("--exclude", "--threshold", "--frames", "--category-scores", "--imitation", "--threads", "--gpu-layers"),
        *("--kernels", "--vision-backend", "--onnx-tower", "--onnx-provider", "--memory-limit", "--n-ctx", "--jobs"),
        *("--ray", "--actors", "--gpus-per-actor", "--watch", "--out", "--report", "--exit-code"),
    ),
    "use": ("--none",),
    "doctor": ("--fresh", "--json"),
    "cache": ("--all", "--json"),
    "completion": ("bash", "zsh", "fish"),
    "bench": (
        *("--model", "--mmproj", "--demo", "--image", "--prompt", "--runs", "--warmup", "--threads", "--gpu-layers"),
        *("--n-ctx", "--json", "--against", "--vision-backend", "--onnx-tower", "--memory-limit"),
    ),
    "compare": (
        *("--data", "--data-format", "--reference", "--candidate", "--endpoint", "--endpoint-style", "--endpoint-rate"),
        *(
            "--out",
            "--threshold",
            "--margin",
            "--categories",
            "--exclude",
            "--threads",
            "--gpu-layers",
            "--device",
            "--vision-device",
            "--quoted",
            "--keep",
        ),
    ),
    "logits": (
        "--model",
        "--mmproj",
        "--image",
        "--pixels",
        "--tokens",
        "--out",
        "--exact",
        "--threads",
        "--ubatch",
        "--force",
    ),
}


def test_every_command_is_documented():
    assert set(cli.lazy) == set(DOCUMENTED)


@pytest.mark.parametrize("command", DOCUMENTED)
def test_help(run, command):
    result = run(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    words = result.stdout.replace(",", " ").split()
    assert [option for option in DOCUMENTED[command] if option not in " ".join(words)] == []
    assert "Example" in result.stdout
    assert run(command, "-h").stdout == result.stdout


@pytest.mark.parametrize("command", DOCUMENTED)
def test_the_list_of_commands_says_what_the_commands_say(command):
    loaded = cli.get_command(click.Context(cli), command)
    assert loaded.help.split("\n\n")[0] == cli.lazy[command][1]
    assert all(parameter.help for parameter in loaded.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("command", DOCUMENTED)
def test_no_option_is_taken_twice(run, command):
    loaded = cli.get_command(click.Context(cli), command)
    single = [option for option in loaded.params if isinstance(option, click.Option) and not option.multiple]
    for option in (option for option in single if not option.is_flag and not option.is_eager):
        result = run(command, option.opts[0], "a", f"{option.opts[0]}=b")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: {option.opts[0]} is given 2 times, expected once\n"


def test_no_command_is_help(run):
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == run("--help").stdout


def test_version(run):
    assert run("--version").stdout.split()[0] == "visionward"


def test_the_page_in_the_docs():
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m visionward.cli.reference > docs/cli.md"


def test_every_command_is_listed_under_one_subject():
    listed = [name for names in cli.subjects.values() for name in names]
    assert sorted(listed) == sorted(cli.lazy)


def test_options_are_grouped(run):
    lines = run("classify", "--help").stdout.splitlines()
    order = ["Model:", "Input:", "Verdict:", "Computation:", "Output:", "General:"]
    assert [line for line in lines if line in order] == order
    assert "Options:" not in lines


def test_verbose_before_and_behind_a_command(run, guard):
    for arguments in (("-v", "classify", *PROMPTED), ("classify", "-v", *PROMPTED), ("classify", *PROMPTED, "-v")):
        guard.enqueue(RuntimeError("a bug"))
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Traceback" in result.stderr, arguments
        logging.getLogger().handlers.clear()
        logging.getLogger().setLevel(logging.WARNING)
    guard.enqueue(RuntimeError("a bug"))
    assert "Traceback" not in run("classify", *PROMPTED).stderr


@pytest.mark.parametrize(("columns", "most"), [(40, 72), (80, 42)])
def test_the_first_screen_is_short(run, monkeypatch, columns, most):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("--help").stdout.splitlines()
    assert len(lines) <= most
    # Commands to copy are not broken.
    assert all(len(line) <= columns or "visionward classify" in line for line in lines)
