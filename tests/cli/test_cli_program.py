"""The installed program: exit codes, streams, interrupts."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_program import COMMAND, environment

LIGHT = ("--threads", "1")

# Everything that cannot be computed without the native library, with a library that cannot be loaded.
WITHOUT_LIBRARY = """
import sys
sys.modules["llama_cpp"] = None
from visionward.cli.main import cli
cli()
"""

# The real program, but the image is encoded again and again; the first time leaves a mark.
ENDLESS = """
import pathlib, sys
from visionward.runtime.vision import ggml_tower
encode = ggml_tower.GgmlTower.encode
def forever(tower, tiles, on_layer):
    while True:
        encode(tower, tiles, on_layer).close()
        pathlib.Path(sys.argv[1]).touch()
ggml_tower.GgmlTower.encode = forever
from visionward.cli.main import cli
cli(sys.argv[2:])
"""


# An interrupt arrives in a destructor, where Python prints it and goes on.
LOST_INTERRUPT = """
import os, signal, sys
from visionward.runtime.guard.guard import Guard
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
classify = Guard.classify
def interrupted(*arguments, **options):
    verdict = classify(*arguments, **options)
    Swallows()
    return verdict
Guard.classify = interrupted
from visionward.cli.main import cli
cli(sys.argv[1:])
"""


def test_json_and_exit_codes(program, model, picture):
    result = program("classify", *model, "--image", picture, "--json", *LIGHT)
    assert (result.returncode, result.stderr) == (0, "")
    verdict = json.loads(result.stdout)
    assert verdict["tiles"] == 1
    # An untrained model does not answer, and that is never safe.
    assert verdict["verdict"] == "unsafe"
    assert program("classify", *model, "--image", picture, "--exit-code", *LIGHT).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("classify", "--prompt", "x"), "no model was given"),
        (("classify", "--json"), "nothing to judge"),
        (("classify", "--model", __file__, "--mmproj", __file__, "--prompt", "x", "--json"), "is not a GGUF file"),
        (("nonsense",), "unknown command"),
    ],
)
def test_errors(program, arguments, fragment):
    result = program(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert fragment in result.stderr


def test_a_broken_image_is_no_verdict(program, model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    result = program("classify", *model, "--image", tmp_path / "broken.png", "--prompt", "x", *LIGHT)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert "broken.png" in result.stderr


def test_verbose_shows_what_the_library_logs(program, model):
    result = program("--verbose", "classify", *model, "--prompt", "x", "--json", *LIGHT)
    assert result.returncode == 0
    assert "visionward.native" in result.stderr
    json.loads(result.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt(model, picture, tmp_path):
    mark = tmp_path / "encoding"
    command = [sys.executable, "-c", ENDLESS, str(mark), "classify", *model, "--image", str(picture), "--json", *LIGHT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not mark.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, *output) == (130, "", "interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_that_python_swallows(model):
    command = [sys.executable, "-c", LOST_INTERRUPT, "classify", *model, "--prompt", "x", "--json", *LIGHT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout) == (130, "")
    assert "Exception ignored" in result.stderr
    assert result.stderr.endswith("interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
@pytest.mark.parametrize("arguments", [("classify", "--prompt", "x", "--exit-code"), ("--help",), ("classify", "-h")])
def test_a_reader_that_has_gone_is_an_error_without_a_word(model, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, *arguments, *(model if "--prompt" in arguments else ())]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (2, "")


def with_closed(closed, arguments):
    """The program as a shell starts it with ``>&-`` and the like."""
    source = (
        "import os, sys\nfor closed in map(int, sys.argv.pop(1)): os.close(closed)\nos.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", source, closed, *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
@pytest.mark.parametrize("arguments", [("classify", "--prompt", "x"), ("classify", "--json", "--prompt", "x"), ("-h",)])
def test_a_closed_output_is_an_error(model, arguments):
    result = with_closed("1", [*arguments, *(model if "--prompt" in arguments else ())])
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith("error: standard output is closed")
    assert with_closed("12", [*arguments, *(model if "--prompt" in arguments else ())]).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
def test_closed_input_and_closed_errors_do_not_matter(model):
    result = with_closed("02", ["classify", "--json", "--prompt", "x", *model])
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["verdict"] == "unsafe"


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
def test_a_closed_input_cannot_be_read(model):
    result = with_closed("0", ["classify", "--prompt", "-", *model])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --prompt is -, and standard input is closed\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error(model):
    command = [*COMMAND, "classify", *model, "--prompt", "x", "--json", *LIGHT]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert (result.returncode, result.stderr) == (2, "error: No space left on device\n")


def test_without_the_native_library():
    def start(*arguments):
        command = [sys.executable, "-c", WITHOUT_LIBRARY, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert start("--help").returncode == start("classify", "--help").returncode == 0
    report = start("doctor")
    assert (report.returncode, report.stderr) == (0, "")
    assert "llama-cpp-python 0.3.36 cannot be loaded" in report.stdout
    result = start("classify", "--prompt", "x", "--model", "t", "--mmproj", "m")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "cannot be loaded" in result.stderr


def test_doctor_survives_the_kernels_of_this_machine(program, tmp_path):
    env = environment(XDG_CACHE_HOME=str(tmp_path))
    first = program("doctor", "--json", env=env)
    assert (first.returncode, first.stderr) == (0, "")
    kernels = {kernel["kernel"]: kernel["status"] for kernel in json.loads(first.stdout)["kernels"]}
    assert kernels["plain"] == "works"
    assert "untested" not in kernels.values()
    again = program("doctor", "--json", env=env)
    assert json.loads(again.stdout)["kernels"] == json.loads(first.stdout)["kernels"]
