"""``-`` reads standard input: what is judged is what came, or there is no verdict."""

import base64
import json
import os
import sys

import pytest
from cli_program import COMMAND, environment
from fake_guard import SAFE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from visionward.cli import standard_input
from visionward.runtime.images.images import decode_image

PAIR = ("--model", "t.gguf", "--mmproj", "m.gguf")


def judged(guard):
    return guard.history[-1]["conversation"]


@pytest.mark.parametrize(
    ("given_bytes", "text"),
    [
        (b"hello", "hello"),
        (b"hello\n", "hello"),
        (b"hello\r\n", "hello"),
        (b"hello\n\n", "hello\n"),
        (b"hello\r", "hello\r"),
        (b"\xef\xbb\xbfhello\n", "hello"),
        ("  größe\n- \n".encode(), "  größe\n- "),
        (b"-\n", "-"),
    ],
)
def test_a_prompt(run, guard, given_bytes, text):
    guard.enqueue(SAFE)
    result = run("classify", *PAIR, "--prompt", "-", input=given_bytes)
    assert result.exit_code == 0, result.stderr
    assert judged(guard).texts == (text,)
    assert result.stderr == ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")).filter(str.strip))
def test_any_text_arrives_whole(run, guard, text):
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, "--prompt", "-", input=(text + "\n").encode()).exit_code == 0
    last = "\r" if text.endswith("\r") else ""  # with the line break behind it, it is one line break
    assert judged(guard).texts == (text.removeprefix("\ufeff").removesuffix(last),)


def test_a_response_and_an_image(run, guard, picture):
    guard.enqueue(SAFE, SAFE)
    assert run("classify", *PAIR, "--prompt", "p", "--response", "-", input=b"no\n").exit_code == 0
    assert judged(guard).texts == ("p", "no")
    result = run("classify", *PAIR, "--image", "-", "--prompt", "p", input=picture.read_bytes())
    assert result.exit_code == 0, result.stderr
    (image,) = judged(guard).images
    assert decode_image(image).tobytes() == Image.open(picture).convert("RGB").tobytes()


def test_a_conversation(run, guard, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "-"}]
    guard.enqueue(SAFE, SAFE)
    messages = [{"role": "user", "content": parts}]
    for value in (messages, {"messages": messages}):
        assert run("classify", *PAIR, "--conversation", "-", input=json.dumps(value).encode()).exit_code == 0
        assert judged(guard).texts == ("-",)
        assert judged(guard).images == (picture.read_bytes(),)


WRONG = [
    (("--prompt", "-"), b"", "--prompt is -, and standard input is empty"),
    (("--prompt", "-"), b" \n\t", "only white space"),
    (("--prompt", "-", "--image", "a.png"), b"\n", "only white space"),
    (("--prompt", "p", "--response", "-"), b"", "--response is -, and standard input is empty"),
    (("--image", "-"), b"", "--image is -, and standard input is empty"),
    (("--conversation", "-"), b"", "--conversation is -, and standard input is empty"),
    (("--prompt", "-"), b"hello \xe4\n", "not UTF-8 text (byte 6)"),
    (("--prompt", "-"), "hello".encode("utf-16"), "not UTF-8 text (byte 0)"),
    (("--prompt", "-"), b"a\x00b", "a NUL character"),
    (("--conversation", "-"), b"[", "not JSON"),
    (("--conversation", "-"), b'{"prompt": "x"}', "expected a list of messages"),
    (("--conversation", "-", "--prompt", "x"), b"[]", "--conversation excludes"),
    (("--response", "-"), b"x", "--response needs the --prompt"),
    (("--prompt", "-", "--response", "-"), b"x", "--prompt and --response are all -"),
    (("--image", "-", "--prompt", "-"), b"x", "--image and --prompt are all -"),
    (("--image", "./-"), b"x", "does not exist"),
    (("--categories", "-", "--prompt", "x"), b"{}", "'-' does not exist"),
]


@pytest.mark.parametrize(("arguments", "data", "fragment"), WRONG)
def test_what_is_no_input(run, guard, tmp_path, monkeypatch, arguments, data, fragment):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    result = run("classify", *PAIR, *arguments, input=data)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert fragment in result.stderr
    assert guard.loads == []


def test_an_input_without_end(run, guard, monkeypatch):
    monkeypatch.setattr(standard_input, "MAX_BYTES", 2**20)
    result = run("classify", *PAIR, "--prompt", "-", input=b"x" * (2**20 + 1))
    assert (result.exit_code, result.stderr) == (2, "error: --prompt is -, and standard input has more than 1 MiB\n")
    assert guard.loads == []


def test_a_file_that_is_called_a_dash(run, guard, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes(picture.read_bytes())
    guard.enqueue(SAFE)
    assert run("classify", *PAIR, "--image", "./-", input=b"something else").exit_code == 0
    (image,) = judged(guard).images
    assert image.read_bytes() == picture.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
def test_a_terminal_is_told_how_to_end(model):
    import pty  # noqa: PLC0415 - not on Windows

    mine, its = pty.openpty()
    output, written = os.pipe()
    command = [*COMMAND, "classify", *model, "--prompt", "-", "--threads", "1", "--json"]
    process = os.posix_spawnp(
        command[0],
        command,
        environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, its, 0), (os.POSIX_SPAWN_DUP2, written, 1), (os.POSIX_SPAWN_DUP2, its, 2)],
    )
    os.close(written)
    os.close(its)
    assert b"Reading --prompt from the terminal" in os.read(mine, 1000)
    os.write(mine, b"hello\n\x04")
    with os.fdopen(output) as found:
        assert json.loads(found.read())["role"] == "User"
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    os.close(mine)
