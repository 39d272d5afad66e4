"""The demo: what it shows of each sample, and that it calls itself a toy model."""

import dataclasses
import json
import shlex

import pytest
from fake_guard import SAFE, UNSAFE

from visionward import demonstration
from visionward.convert import demo_guard
from visionward.demonstration import DEMO_NOTICE


@pytest.fixture
def samples(tmp_path, picture, monkeypatch):
    """Two samples in place of the packaged ones."""
    folder = tmp_path / "demo_guard" / "samples"
    folder.mkdir(parents=True)
    (folder / "one.png").write_bytes(picture.read_bytes())
    lines = [
        {"image": "one.png", "prompt": "What is this?", "label": "safe", "categories": []},
        {"image": "one.png", "prompt": "And?", "response": "Boom", "label": "unsafe", "categories": ["S1", "S9"]},
    ]
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    monkeypatch.setattr(demonstration.resources, "files", lambda _: tmp_path)
    return folder


@pytest.fixture
def _tiny_demo(tiny_pair, monkeypatch):
    monkeypatch.setattr(demo_guard, "demo_pair", lambda: tiny_pair)


@pytest.mark.usefixtures("_tiny_demo")
def test_shows_every_sample(run, guard, samples):
    guard.enqueue(SAFE, dataclasses.replace(UNSAFE, tiles=4))
    result = run("demo", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    asked = [question["conversation"] for question in guard.history]
    assert [conversation.images for conversation in asked] == [(samples / "one.png",)] * 2
    assert [conversation.texts for conversation in asked] == [("What is this?",), ("And?", "Boom")]
    lines = result.stdout.splitlines()
    assert lines[0] == f"Note: {DEMO_NOTICE}"
    assert "1. image one.png, 1 tile" in lines
    assert "   verdict:    SAFE, P(unsafe) 0.020, 1.5 s" in lines
    assert "   expected:   safe" in lines
    assert "2. image one.png, 4 tiles" in lines
    assert "   assistant:  Boom" in lines
    assert (
        "   verdict:    UNSAFE, S9 Indiscriminate Weapons (0.80), S1 Violent Crimes (0.30), P(unsafe) 0.930, 50 ms"
        in lines
    )
    assert "   expected:   unsafe S1,S9" in lines
    assert any(line.startswith("2 of 2 as expected.") and "toy" in line for line in lines)
    assert "    visionward convert Llama-Guard-3-11B-Vision models" in lines


@pytest.mark.usefixtures("_tiny_demo", "samples")
def test_what_it_suggests_works_as_pasted(run, guard):
    guard.enqueue(SAFE, SAFE)
    commands = [shlex.split(line) for line in run("demo").stdout.splitlines() if line.startswith("    ")]
    assert [command[:2] for command in commands] == [["visionward", name] for name in ("classify", "doctor", "convert")]
    guard.enqueue(SAFE)
    assert json.loads(run(*commands[0][1:]).stdout)["verdict"] == "safe"


@pytest.mark.usefixtures("_tiny_demo", "samples")
def test_differences_are_shown(run, guard):
    guard.enqueue(UNSAFE, dataclasses.replace(UNSAFE, categories=UNSAFE.categories[:1]))
    lines = run("demo").stdout.splitlines()
    assert "   expected:   safe  <- differs" in lines
    assert "   expected:   unsafe S1,S9  <- differs" in lines
    assert any(line.startswith("0 of 2 as expected.") for line in lines)


def test_no_samples(samples, run):
    (samples / "samples.jsonl").unlink()
    result = run("demo")
    assert result.exit_code == 2
    assert result.stderr == f"error: {samples / 'samples.jsonl'}: No such file or directory\n"
