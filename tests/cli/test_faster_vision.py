"""The hint after a slow classification."""

import shlex
from dataclasses import replace

import pytest
from fake_guard import SAFE

from visionward.cli.faster_vision import MIN_SLOW_MS, faster_vision_lines

SLOW = replace(SAFE, timings_ms=replace(SAFE.timings_ms, vision=74_000.0))


def test_the_command_works_as_pasted(run, pair):
    lines = list(faster_vision_lines(SLOW, pair.mmproj))
    assert "ggml took 74.0 s for the image on the CPU" in lines[1]
    assert lines[2].startswith("    ")
    _, command = lines[2].split("visionward ", 1)
    assert run(*shlex.split(command)).exit_code == 0
    # There is a tower now.
    assert list(faster_vision_lines(SLOW, pair.mmproj)) == []


@pytest.mark.parametrize(
    "verdict",
    [
        replace(SLOW, vision_backend="onnx"),
        replace(SLOW, vision_backend=None),
        replace(SLOW, timings_ms=replace(SLOW.timings_ms, vision=MIN_SLOW_MS - 1)),
    ],
)
def test_no_hint(verdict, pair):
    assert list(faster_vision_lines(verdict, pair.mmproj)) == []


def test_classify_shows_it_to_people(run, guard, pair):
    options = ("classify", "--model", pair.text.parent, "--prompt", "hello")
    guard.enqueue(SLOW, SLOW, SLOW)
    assert "Hint: ggml took" in run(*options, "--gpu-layers", 0).stderr
    assert run(*options, "--json", "--gpu-layers", 0).stderr == ""
    # Whoever chose ggml has a reason.
    assert run(*options, "--vision-backend", "ggml").stderr == ""
