"""The command ``visionward serve``: how it starts, what it refuses, and how it ends."""

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from click.testing import CliRunner
from openai import OpenAI
from process_tree import children
from served_demo import KEY, ServedDemo, gauge

from visionward.cli import serve as serve_module
from visionward.cli.main import cli
from visionward.machine import extras
from visionward.serve.api_keys import ApiKeys
from visionward.serve.server import bind

HELLO = [{"role": "user", "content": "hello"}]


def refused(*arguments):
    result = CliRunner().invoke(cli, ["serve", "--demo", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines() or [""]
    return line


def test_a_life(tmp_path):
    categories = tmp_path / "categories.json"
    categories.write_text('{"S1": "Spoilers", "S6": "Specialized Advice"}', encoding="utf-8")
    with ServedDemo("--categories", categories, "--threshold", 0.25) as served:
        client = OpenAI(base_url=served.url, api_key=KEY, max_retries=0)
        (model, alias) = client.models.list().data
        assert model.visionward == {
            "threshold": 0.25,
            "categories": {"S1": "Spoilers", "S6": "Specialized Advice"},
        }
        found = client.chat.completions.create(model=alias.id, messages=HELLO)
        assert set(found.visionward["category_scores"]) == {"S1", "S6"}
        assert found.model == alias.id
        assert served.stop() == 0
        events = [line["event"] for line in served.log]
        # A line is written after the answer has been sent.
        assert sorted(events) == ["ready", "request", "request", "stopping"]
        assert served.log[0]["url"] == served.url
    assert "Ctrl-C stops it." in served.errors
    assert "Warning" not in served.errors


def test_an_interrupt_is_an_end_too():
    with ServedDemo(key=False) as served:
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the children of a process are read from /proc")
def test_the_end_finishes_what_runs():
    """A moderation of many texts is under way when the signal comes: it is answered; what waits gets 503."""
    with ServedDemo("--max-messages", 1000, key=False) as served:
        client = OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=120)
        texts = [f"text {number}" for number in range(40)]
        (child,) = children(served.process.pid)
        # It is held, so that nothing depends on how fast the guard is.
        os.kill(child, signal.SIGSTOP)
        with ThreadPoolExecutor() as threads:
            running = threads.submit(client.moderations.create, input=texts)
            wait_for(served, "visionward_requests_running", 1)
            waiting = threads.submit(client.chat.completions.create, model="demo-guard-text-F16", messages=HELLO)
            wait_for(served, "visionward_requests_waiting", 1)
            served.process.send_signal(signal.SIGTERM)
            refusal = waiting.exception(timeout=60)
            os.kill(child, signal.SIGCONT)
            assert len(running.result(timeout=60).results) == 40
        assert (refusal.status_code, refusal.code) == (503, "shutting_down")
        assert served.process.wait(60) == 0


def wait_for(served, name, value):
    """Wait until a gauge of the server has a value."""
    until = time.monotonic() + 60
    while gauge(served.url, name) != value:
        assert time.monotonic() < until, name
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the children of a process are read from /proc")
def test_a_crash_of_the_guard_is_an_error_of_one_request():
    with ServedDemo(key=False) as served:
        client = OpenAI(base_url=served.url, api_key="none", max_retries=0)
        ask = lambda: client.chat.completions.create(model="demo-guard-text-F16", messages=HELLO)  # noqa: E731
        before = ask().choices[0].message.content
        (child,) = children(served.process.pid)
        # It is killed during a call: if it dies between two, the next one does not fail.
        os.kill(child, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (child, signal.SIGKILL)).start()
        with pytest.raises(openai.InternalServerError, match="there is no verdict") as caught:
            ask()
        assert "process" not in caught.value.message
        assert ask().choices[0].message.content == before
        failure = next(line for line in served.log if line["event"] == "failure")
        assert failure["error"] == "GuardProcessError"
        assert "SIGKILL" in failure["message"]


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("--port", port) == f"error: cannot listen at 127.0.0.1, port {port}: Address already in use."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid, port 8000: "),
        (("--port", "70000"), "70000 is not in the range"),
        (("--api-key-file", "missing.txt"), "does not exist"),
        (("--alias", " "), "an alias has 1 to 200 printable characters"),
        (("--allow-image-host", "https://a.example"), "is not a host name"),
        (("--allow-image-host", "localhost"), "is not a host name"),
        (("--max-body", "many"), "is not a size"),
        (("--threshold", "2"), "is not between 0 and 1"),
        (("--exclude", "S99"), "unknown category 'S99'"),
        (("--model", "x"), "--demo and --model exclude each other"),
    ],
)
def test_what_is_refused(arguments, sentence):
    assert sentence in refused(*arguments)


def test_keys_that_cannot_be_used(tmp_path):
    path = tmp_path / "keys"
    path.write_text("short", encoding="utf-8")
    assert f"{path}: line 1: a key has" in refused("--api-key-file", path)


def test_a_missing_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("starlette", "uvicorn") else object())
    line = refused()
    assert "starlette and uvicorn are not installed: " in line
    assert "visionward[serve]" in line


@pytest.mark.parametrize(("address", "keys", "warned"), [("0.0.0.0", None, True), ("::1", None, False)])  # noqa: S104
def test_a_server_for_everybody_is_warned_of(address, keys, warned):
    class Bound:
        def getsockname(self):
            return (address, 8000)

    greeting = serve_module._greeting("http://x", "guard", Bound(), keys)
    assert any(line.startswith("Warning: ") for line in greeting) == warned
    with_key = serve_module._greeting("http://x", "guard", Bound(), ApiKeys(("sk-0123456789abcdef",)))
    assert not any(line.startswith("Warning: ") for line in with_key)


def test_the_address_of_the_second_protocol():
    class Bound:
        def getsockname(self):
            return ("::1", 8000, 0, 0)

    assert serve_module._url(Bound()) == "http://[::1]:8000"


def test_on_windows_an_address_has_one_server(monkeypatch):
    """Another option takes the place of Windows' own, which this system lacks."""
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with bind("127.0.0.1", 0) as bound:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
