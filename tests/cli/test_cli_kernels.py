"""Commands that gain nothing by packed weights load plain ones."""

import json

import pytest
from tiny_checkpoint import IMAGE_TOKEN_ID

from visionward.runtime import engine


@pytest.fixture
def asked(monkeypatch):
    """The kernels that engines were asked for, each answered by plain ones."""
    found = []
    monkeypatch.setattr(engine, "choose_kernels", lambda options, *_, **__: (found.append(options.kernels), "plain")[1])
    return found


@pytest.mark.parametrize(
    ("command", "kernels"), [("verify", "plain"), ("logits", "plain"), ("imatrix", "plain"), ("classify", "plain")]
)
def test_plain(run, model, picture, tmp_path, asked, command, kernels):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "hello"}) + "\n")
    arguments = {
        "verify": (),
        "logits": ("--image", picture, "--tokens", f"500,{IMAGE_TOKEN_ID},7", "--out", tmp_path / "out.npz"),
        "imatrix": ("--data", data, "--out", tmp_path / "imatrix.gguf"),
        "classify": (picture, "hello"),
    }[command]
    result = run(command, *model, *arguments, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert asked == [kernels]


def test_auto(run, model, picture, asked):
    result = run("bench", *model, "--image", picture, "--runs", 1, "--warmup", 0, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert set(asked) == {"auto"}
    assert "CPU, plain kernels, 1 thread" in result.stdout
