"""The HTTP server: routes, keys, limits, the queue, clients that go away, and its end."""

import contextlib
import json
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from running_server import RunningServer, WordGuard, until, words

from visionward.errors import ComputeError, ImageError
from visionward.serve import request_body
from visionward.serve.api_keys import ApiKeys
from visionward.serve.request_limits import RequestLimits

KEY = "sk-0123456789abcdef"


@pytest.fixture
def guard():
    return WordGuard()


@pytest.fixture
def server(guard):
    with RunningServer(guard, max_waiting=2, limits=RequestLimits(max_body_bytes=10_000, max_messages=3)) as running:
        yield running
        guard.release.set()


def post(path="/v1/chat/completions", body=b"", extra=""):
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def chat_body(text):
    return json.dumps({"model": "guard", "messages": [{"role": "user", "content": text}]}).encode()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_a_verdict(server):
    for text, content in (("hello", "safe"), ("something unsafe", "unsafe\nS9,S1")):
        status, found = server.chat(text)
        assert status == 200
        assert found["choices"][0]["message"]["content"] == content
    conversation, options = server.guard.history[0]
    assert conversation.texts == ("hello",)
    assert options["allow_files"] is False


def test_models(server):
    _, _, body = server.request("GET", "/v1/models")
    names = [entry["id"] for entry in json.loads(body)["data"]]
    assert names == ["guard", "meta-llama/Llama-Guard-3-11B-Vision-Turbo"]
    for name in names:
        status, _, body = server.request("GET", f"/v1/models/{name}")
        assert (status, json.loads(body)["id"]) == (200, name)
    assert server.request("GET", "/v1/models/gpt")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/readyz/", 404),
        ("GET", "/v1/models/", 404),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("GET", "/v2/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/models/..%2f..%2fetc", 404),
    ],
)
def test_other_urls_are_errors_in_openais_shape(server, method, path, status):
    found, headers, body = server.request(method, path, b"{}")
    assert found == status
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"].startswith("req_")
    if status == 405:
        assert headers["Allow"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, None),
        (b"", {}, 400, None),
        (chat_body("hello"), {"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        (chat_body("hello"), {"Content_Encoding": "gzip"}, 415, "unsupported_media_type"),
        (b'{"model": "gpt", "messages": [{"role": "user", "content": "a"}]}', {}, 404, "model_not_found"),
        (b'{"model": "guard", "messages": [{"role": "user", "content": " "}]}', {}, 400, None),
        (b'{"model": "guard", "messages": [{"role": "robot", "content": "a"}]}', {}, 400, None),
        (b'{"model": "guard", "messages": [1, 2, 3, 4]}', {}, 413, "request_too_large"),
        (chat_body("x" * 20_000), {}, 413, "request_too_large"),
        (chat_body("https"), {}, 200, None),
    ],
)
def test_what_is_wrong_in_a_request(server, body, headers, status, code):
    found, _, answer = server.request("POST", "/v1/chat/completions", body, **headers)
    assert found == status
    if status != 200:
        error = json.loads(answer)["error"]
        assert error["code"] == code
        assert error["type"] == "invalid_request_error"
        assert "safe" not in answer.decode()


def test_names_that_have_no_utf8(server):
    for body in (rb'{"\ud800": 1}', rb'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}'):
        status, _, answer = server.request("POST", "/v1/chat/completions", body)
        assert status in (400, 404)
        assert json.loads(answer)["error"]["param"] in ("\ud800", "model")


def test_numbers_that_are_not_finite_are_no_answer(server, guard):
    guard._judge = lambda text: replace(words(text), score=float("nan"))
    status, body = server.chat("hello")
    assert (status, body["error"]["code"]) == (500, "internal_error")


def test_noise_instead_of_http(server):
    chance = random.Random(7)
    head = post(body=chat_body("hello"))
    for _ in range(100):
        with connect(server) as client:
            cut = head[: chance.randrange(len(head))]
            client.sendall(chance.choice((chance.randbytes(300), cut + chance.randbytes(20), b"\r\n" * 100 + cut)))
            client.shutdown(socket.SHUT_WR)
            # A server that resets the connection has answered, too.
            with contextlib.suppress(ConnectionError):
                assert b'"content":"safe"' not in client.recv(4096)
    assert server.chat("hello")[0] == 200
    assert server.service._budget.held == 0


def test_a_body_without_a_length_that_grows_too_large(server):
    """In chunks, of which the last ones come after the limit."""
    with connect(server) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive(server, monkeypatch):
    monkeypatch.setattr(request_body, "BODY_TIMEOUT_S", 0.2)
    with connect(server) as client:
        client.sendall(post(body=chat_body("hello"))[:-5])
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert server.chat("hello")[0] == 200


def test_failures_are_errors_and_never_safe(server, guard):
    for error, status in ((RuntimeError("secret"), 500), (ComputeError("broken."), 500), (ImageError("no."), 400)):
        guard.error = error
        found, body = server.chat("error")
        assert found == status
        assert "choices" not in body
        assert "secret" not in json.dumps(body)
    assert server.chat("hello")[0] == 200


def test_keys(guard, tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\n\nsk-another-key-of-ours\n", encoding="utf-8")
    with RunningServer(guard, keys=ApiKeys.from_file(path)) as server:
        for key in (None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x"):
            headers = {} if key is None else {"Authorization": key}
            for method, url in (("POST", "/v1/chat/completions"), ("POST", "/v1/moderations"), ("GET", "/v1/models")):
                status, answer, body = server.request(method, url, chat_body("hello"), **headers)
                assert status == 401
                assert json.loads(body)["error"]["type"] == "authentication_error"
                assert answer["WWW-Authenticate"] == "Bearer"
                assert KEY not in body.decode()
        for key in (KEY, "sk-another-key-of-ours"):
            for scheme in ("Bearer", "bearer"):
                assert server.request("GET", "/v1/models", Authorization=f"{scheme} {key}")[0] == 200
        for url in ("/healthz", "/readyz", "/metrics"):
            assert server.request("GET", url)[0] == 200
    assert guard.history == []


def test_a_guard_that_does_not_start_is_not_ready(server, guard):
    assert server.request("GET", "/readyz")[0] == 200
    guard.is_available = False
    status, _, body = server.request("GET", "/readyz")
    assert (status, json.loads(body)) == (503, {"status": "the guard does not start"})
    assert server.request("GET", "/healthz")[0] == 200


def test_the_queue_is_bounded(server, guard):
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.chat, "wait")]
        until(lambda: guard.running == 1)
        running += [pool.submit(server.chat, "wait") for _ in range(2)]
        until(lambda: server.service.queue.waiting == 2)
        status, headers, body = server.request("POST", "/v1/chat/completions", chat_body("hello"))
        assert status == 429
        assert int(headers["Retry-After"]) >= 1
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        for url in ("/healthz", "/readyz", "/v1/models"):
            assert server.request("GET", url)[0] == 200
        guard.release.set()
        assert [one.result()[0] for one in running] == [200] * 3
    assert server.chat("hello")[0] == 200


def test_requests_take_turns_in_order(guard):
    """Sixteen at once: one by one, first come, first served."""
    with RunningServer(guard, max_waiting=16) as server, ThreadPoolExecutor(20) as pool:
        first = pool.submit(server.chat, "wait")
        until(lambda: guard.running == 1)
        others = []
        for number in range(16):
            others.append(pool.submit(server.chat, f"text {number}"))
            until(lambda count=number + 1: server.service.queue.waiting == count)
        guard.release.set()
        assert {one.result()[0] for one in [first, *others]} == {200}
    assert [conversation.texts[0] for conversation, _ in guard.history[1:]] == [f"text {n}" for n in range(16)]


def test_a_client_that_goes_away_frees_its_place_and_its_computation(server, guard):
    with connect(server) as computing, connect(server) as waiting:
        computing.sendall(post(body=chat_body("wait")))
        until(lambda: guard.running == 1)
        waiting.sendall(post(body=chat_body("wait too")))
        until(lambda: server.service.queue.waiting == 1)
        waiting.close()
        until(lambda: server.service.queue.waiting == 0)
        assert guard.running == 1
        computing.close()
        until(lambda: guard.running == 0)
    assert guard.cancelled == 1
    assert server.service.queue.running == 0
    assert server.chat("hello")[0] == 200
    until(lambda: [line["status"] for line in server.log].count(499) == 2)


def test_a_client_that_goes_away_while_it_sends(server):
    with connect(server) as client:
        client.sendall(post(body=chat_body("hello"))[:-5])
    until(lambda: any(line["status"] == 499 for line in server.log))
    assert server.service._budget.held == 0
    assert server.guard.history == []


def test_requests_together_are_bounded_in_bytes(guard):
    limits = RequestLimits(max_body_bytes=1000)
    with RunningServer(guard, limits=limits, max_waiting=100) as server:
        slow = [connect(server) for _ in range(10)]
        for client in slow:
            client.sendall(post(body=chat_body("x" * 900))[:-1])
        until(lambda: server.service._budget.held > 7000)
        status, body = server.chat("x" * 900)
        assert (status, body["error"]["code"]) == (429, "busy")
        for client in slow:
            client.close()
        until(lambda: server.service._budget.held == 0)
        assert server.chat("x" * 900)[0] == 200


def test_logs_have_no_content(server):
    said = "a sentence that nobody may keep"
    server.chat(f"{said} unsafe")
    server.chat(f"{said} error")
    server.chat(said, **{said: 1})
    server.chat(said, model=said)
    server.request("GET", f"/v1/models/{said.replace(' ', '-')}")
    server.request("GET", f"/{said.replace(' ', '-')}")
    until(lambda: len([line for line in server.log if line["event"] == "request"]) == 6)
    text = json.dumps(server.log).replace("-", " ")
    assert said not in text
    assert "nobody" not in text
    first, failure, *_ = server.log
    assert (first["status"], first["verdicts"], first["route"]) == (200, ["unsafe"], "/v1/chat/completions")
    assert first["queue_ms"] >= 0
    assert failure["error"] == "RuntimeError"
    assert "running_server.py" in failure["places"][-1]


def test_metrics(server):
    server.chat("hello")
    server.chat("unsafe")
    server.request("GET", "/nothing")
    text = server.request("GET", "/metrics")[2].decode()
    assert 'visionward_requests_total{route="/v1/chat/completions",status="200"} 2.0' in text
    assert 'visionward_requests_total{route="other",status="404"} 1.0' in text
    assert 'visionward_verdicts_total{verdict="unsafe"} 1.0' in text
    assert 'visionward_stage_seconds_count{stage="queue"} 2.0' in text
    assert "visionward_requests_waiting 0.0" in text


def test_the_end_finishes_what_runs_and_refuses_the_rest(guard):
    with RunningServer(guard) as server, ThreadPoolExecutor(4) as pool:
        running = pool.submit(server.chat, "wait")
        until(lambda: guard.running == 1)
        waiting = pool.submit(server.chat, "wait too")
        until(lambda: server.service.queue.waiting == 1)
        idle = connect(server)
        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        server.server.stop()
        status, body = waiting.result()
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        until(lambda: idle.recv(4096) == b"")
        with pytest.raises(OSError, match="refused"):
            connect(server)
        guard.release.set()
        assert running.result()[0] == 200
        idle.close()


def test_the_end_does_not_wait_for_ever(guard):
    with RunningServer(guard, grace_s=1) as server:
        threading.Thread(target=_ask_and_ignore, args=(server,), daemon=True).start()
        until(lambda: guard.running == 1)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert guard.cancelled == 1


def _ask_and_ignore(server):
    with connect(server) as client:
        client.sendall(post(body=chat_body("wait")))
        client.recv(4096)


def test_a_signal_while_the_log_is_written(guard):
    """The handler runs on the thread that it interrupted, which may be inside the log."""
    with RunningServer(guard) as server, server.server._log._lock:
        server.server.handle_exit(signal.SIGTERM, None)
    assert [line["event"] for line in server.log] == ["stopping"]


def test_moderations(server):
    status, _, body = server.request("POST", "/v1/moderations", {"input": ["hello", "unsafe"]})
    found = json.loads(body)
    assert (status, found["model"]) == (200, "guard")
    assert [result["flagged"] for result in found["results"]] == [False, True]
    assert all(options["category_scores"] for _, options in server.guard.history)


def test_a_stream(server):
    asked = {"model": "guard", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    status, headers, body = server.request("POST", "/v1/chat/completions", asked)
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")


def test_what_was_left_out_is_said(server):
    messages = [
        {"role": "system", "content": "You know all."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    _, body = server.chat("", messages=messages)
    assert len(body["visionward"]["warnings"]) == 2
