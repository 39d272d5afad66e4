"""The classify command: what reaches the guard, and what is printed of its verdict."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_guard import SAFE, UNSAFE

from visionward.cli import model_options
from visionward.convert import demo_guard
from visionward.demonstration import DEMO_NOTICE
from visionward.formats.tile_band import TileBand
from visionward.machine import extras
from visionward.names import DEFAULT_FRAMES
from visionward.runtime import device_plan
from visionward.runtime.guard.verdict import FrameCount

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")
PROMPT = ("--prompt", "hello")


def test_arguments_reach_the_guard(run, guard, picture, tmp_path):
    categories = tmp_path / "categories.json"
    categories.write_text('{"S1": {"name": "Spoilers", "description": "Ends of films."}, "S2": {"name": "Puns"}}')
    guard.enqueue(SAFE)
    result = run(
        *("classify", *PAIR, *PROMPT, "--response", "no", "--image", picture),
        *(
            "--categories",
            categories,
            "--exclude",
            " S2 ,",
            "--threshold",
            "0.25",
            "--threads",
            3,
            "--device",
            "CPU",
            "--vision-device",
            "cuda1",
            "--gpu-layers",
            0,
            "--n-ctx",
            700,
            "--kernels",
            "packed",
            "--vision-backend",
            "onnx",
            "--onnx-tower",
            "v.onnx",
            "--memory-limit",
            "9.5 GiB",
            "--max-tiles",
            2,
        ),
    )
    assert result.exit_code == 0, result.stderr
    options = {
        "threads": 3,
        "device": "CPU",
        "vision_device": "cuda1",
        "gpu_layers": 0,
        "n_ctx": 700,
        "kernels": "packed",
        "vision_backend": "onnx",
        "onnx_tower": Path("v.onnx"),
        "onnx_provider": "auto",
        "openvino_device": "CPU",
        "memory_limit": 19 * 2**29,
        "max_tiles": 2,
        "band": None,
    }
    assert guard.loads == [(Path("t.gguf"), Path("m.gguf"), options)]
    (asked,) = guard.history
    conversation, policy = asked["conversation"], asked["policy"]
    assert conversation.images == (picture,)
    assert conversation.texts == ("hello", "no")
    assert conversation.judged_role == "Agent"
    assert [(c.code, c.name, c.description) for c in policy.categories] == [("S1", "Spoilers", "Ends of films.")]
    assert asked["threshold"] == 0.25
    assert asked["category_scores"] is False
    assert asked["imitation"] == "judge"
    assert guard.closed == 1


def test_tiles(run, guard, picture, tmp_path):
    guard.enqueue(SAFE)
    judged = ("classify", *PAIR, "--image", picture, "--max-tiles")
    assert run(*judged, "auto", "--band", "0.25,0.75").exit_code == 0
    assert guard.loads[0][2]["max_tiles"] == "auto"
    assert guard.loads[0][2]["band"] == TileBand(0.25, 0.75)
    for bad in ("0", "-1", "1.5", "all", "100", "1e0", "²"):
        assert f"{bad!r} is neither a number of tiles nor auto" in run(*judged, bad).stderr
    (tmp_path / "band.json").write_text("{}")
    for bad in ("0.9,0.1", "0.5", str(tmp_path / "band.json")):
        assert run(*judged, "auto", "--band", bad).exit_code == 2
    assert len(guard.loads) == 1


def test_frames(run, guard, picture):
    guard.enqueue(replace(SAFE, frames=FrameCount(8, 120)), replace(SAFE, frames=FrameCount(1, 1)), SAFE)
    assert "Frames: 8 of 120" in run("classify", *PAIR, "--image", picture).stdout.splitlines()
    assert "Frames" not in run("classify", *PAIR, "--image", picture, "--frames", 120).stdout
    assert "Frames" not in run("classify", *PAIR, "--image", picture, "--frames", 1).stdout
    assert [asked["frames"] for asked in guard.history] == [DEFAULT_FRAMES, 120, 1]
    for bad in ("0", "-1", "many"):
        assert run("classify", *PAIR, "--image", picture, "--frames", bad).exit_code == 2


def test_image_alone(run, guard, picture):
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, "--image", picture).exit_code == 0
    assert guard.history[0]["conversation"].judges_image_alone


def test_exclude_may_be_repeated(run, guard):
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, *PROMPT, "--exclude", "S5, S13", "--exclude", "S1").exit_code == 0
    policy = guard.history[0]["policy"]
    assert policy.default_exclusions == ("S1", "S5", "S13")


def test_conversation_file(run, guard, picture, tmp_path):
    (tmp_path / "seen.png").write_bytes(picture.read_bytes())
    part = {"type": "image_url", "image_url": {"url": "seen.png"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "hello"}]}]
    (tmp_path / "c.json").write_text(json.dumps(messages))
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, "--conversation", tmp_path / "c.json").exit_code == 0
    assert guard.history[0]["conversation"].images == (tmp_path / "seen.png",)


def test_model_from_the_environment(run, guard):
    guard.enqueue(SAFE, SAFE)
    env = {"VISIONWARD_MODEL": "env-t.gguf", "VISIONWARD_MMPROJ": "env-m.gguf"}
    assert run("classify", *PROMPT, env=env).exit_code == 0
    assert run("classify", *PROMPT, "--model", "t.gguf", env=env).exit_code == 0
    assert [load[:2] for load in guard.loads] == [
        (Path("env-t.gguf"), Path("env-m.gguf")),
        (Path("t.gguf"), Path("env-m.gguf")),
    ]


def test_demo_takes_the_packaged_model_whatever_the_environment_names(run, guard, tiny_pair, monkeypatch):
    monkeypatch.setattr(demo_guard, "demo_pair", lambda: tiny_pair)
    guard.enqueue(SAFE)
    env = {"VISIONWARD_MODEL": "t.gguf", "VISIONWARD_MMPROJ": "m.gguf"}
    assert run("classify", "--demo", *PROMPT, env=env).exit_code == 0
    assert [load[0] for load in guard.loads] == [tiny_pair.text]


def test_demo_says_that_it_is_a_toy(run):
    assert DEMO_NOTICE in run("classify", "--demo", *PROMPT).stdout
    assert json.loads(run("classify", "--demo", *PROMPT, "--json").stdout)["warnings"][0] == DEMO_NOTICE


@pytest.mark.parametrize(
    ("verdict", "options", "code"),
    [(SAFE, (), 0), (UNSAFE, (), 0), (SAFE, ("--exit-code",), 0), (UNSAFE, ("--exit-code",), 1)],
)
def test_exit_code(run, guard, verdict, options, code):
    guard.enqueue(verdict, verdict)
    assert run("classify", *PAIR, *PROMPT, *options).exit_code == code
    assert run("classify", *PAIR, *PROMPT, *options, "--json").exit_code == code


def test_json(run, guard):
    guard.enqueue(UNSAFE)
    result = run("classify", *PAIR, *PROMPT, "--json", "--category-scores")
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert guard.history[0]["category_scores"] is True
    assert json.loads(result.stdout) == {
        "verdict": "unsafe",
        "score": 0.93,
        "answer_mass": 0.98,
        "categories": [
            {"code": "S9", "name": "Indiscriminate Weapons", "score": 0.8},
            {"code": "S1", "name": "Violent Crimes", "score": 0.3},
        ],
        "category_scores": {"S1": 0.3, "S9": 0.8},
        "role": "Agent",
        "tiles": 0,
        "preferred_tiles": 0,
        "tokens": {"prompt": 210, "decoded": 6},
        "timings_ms": {"load": 10, "preprocess": 0, "vision": 0, "prefill": 20, "decode": 30, "total": 50},
        "model": "guard-text-F16.gguf",
        "vision_backend": None,
        "devices": {
            "text": "CPU",
            "vision": None,
            "cross": None,
            "gpu_layers": 0,
            "layers": 33,
            "memory_bytes": 0,
        },
        "frames": None,
        "first_look": None,
        "warnings": ["no image was given."],
    }


def test_text_for_people(run, guard):
    guard.enqueue(UNSAFE)
    assert run("classify", *PAIR, *PROMPT).stdout.splitlines() == [
        "UNSAFE: P(unsafe) 0.930, threshold 0.5",
        "Judged: the assistant's response",
        "Categories:",
        "  S9   Indiscriminate Weapons  0.800",
        "  S1   Violent Crimes          0.300",
        "Note: no image was given.",
        "Time: 50 ms (prompt 20 ms; categories 30 ms); model loaded in 10 ms",
    ]
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, *PROMPT).stdout.splitlines() == [
        "SAFE: P(unsafe) 0.020, threshold 0.5",
        "Judged: the user's message",
        "Time: 1.5 s (vision 1.5 s, 1 tile on ggml; prompt 20 ms); model loaded in 10 ms",
    ]


def test_colours_only_where_they_are_seen(run, guard):
    guard.enqueue(UNSAFE, UNSAFE)
    assert "\x1b[31m" in run("classify", *PAIR, *PROMPT, color=True).stdout
    assert "\x1b" not in run("classify", *PAIR, *PROMPT, color=True, env={"NO_COLOR": "1"}).stdout


def test_every_score_on_request(run, guard):
    guard.enqueue(UNSAFE)
    lines = run("classify", *PAIR, *PROMPT, "--category-scores").stdout.splitlines()
    assert "P(category is named first | unsafe):" in lines
    assert lines.count("  S1   Violent Crimes          0.300") == 2


def test_imitation_is_judged_unless_it_is_only_named(run, guard):
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, "--prompt", "hello", "--imitation", "warn").exit_code == 0
    assert guard.history[0]["imitation"] == "warn"
    result = run("classify", *PAIR, "--prompt", "hello", "--imitation", "ignore")
    assert result.exit_code == 2
    assert "'ignore' is not one of 'judge', 'warn'" in result.stderr


def test_what_stands_beside_the_messages_is_an_error(run, guard, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text('{"messages": [{"role": "user", "content": "hello"}], "image": "x.jpg"}')
    result = run("classify", *PAIR, "--conversation", path)
    assert result.exit_code == 2
    assert (
        "the object around the messages has the key 'image', whose value would not be judged: remove it"
        in result.stderr
    )
    assert guard.history == []


def test_layers_for_a_gpu_that_is_not_there(run, model, monkeypatch):
    monkeypatch.setattr(device_plan, "gpu_devices", list)
    result = run("classify", *model, *PROMPT, "--gpu-layers", 99)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert (
        "99 layers cannot be put on a GPU (--gpu-layers): the installed llama-cpp-python found none." in result.stderr
    )
    assert run("classify", *model, *PROMPT, "--gpu-layers", 0).exit_code == 0


def test_a_chat_with_a_system_message_and_repeated_roles(run, guard, tmp_path):
    chat = [{"role": role, "content": role} for role in ("system", "user", "user")]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(chat))
    refused = run("classify", *PAIR, "--conversation", path)
    assert refused.exit_code == 2
    assert "message 1: the role is system" in refused.stderr
    assert "--system drop" in refused.stderr
    refused = run("classify", *PAIR, "--conversation", path, "--system", "drop")
    assert "message 3: the role is user" in refused.stderr
    assert "--merge-turns" in refused.stderr
    guard.enqueue(SAFE, SAFE)
    for source, text in ((path, None), ("-", path.read_text())):
        options = ("--system", "drop", "--merge-turns")
        result = run("classify", *PAIR, "--conversation", source, *options, **({} if text is None else {"input": text}))
        assert result.exit_code == 0, result.stderr
    for asked in guard.history:
        assert asked["conversation"].texts == ("user", "user")
        assert len(asked["conversation"].warnings) == 1


def test_an_engine_that_is_not_installed(run, guard, monkeypatch):
    for module in (model_options, extras):
        monkeypatch.setattr(module, "find_spec", lambda _name: None)
    result = run("classify", *PAIR, *PROMPT, "--vision-backend", "openvino")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert "openvino is not installed: " in result.stderr
    assert "install 'visionward[openvino]'" in result.stderr
    assert guard.loads == []
