"""Models behind an API: a real HTTP server on loopback answers."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visionward.compare.endpoint import MAX_FAILURES, endpoint_key, judge_with_endpoint
from visionward.compare.endpoint_prompt import data_urls, first_word_score, messages, read_answer
from visionward.compare.journal import Journal
from visionward.compare.models import Endpoint
from visionward.compare.settings import EndpointSettings
from visionward.errors import DataError, ImageError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.runtime.guard.samples import Sample

FAST = EndpointSettings(timeout_s=10, retries=2)


class Server:
    """Answers from a function of the request; remembers requests."""

    def __init__(self):
        self.requests, self.answer = [], lambda _: reply("safe")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                status, value = outer.answer(body)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def reply(text, logprobs=None):
    content = (
        None
        if logprobs is None
        else {
            "content": [
                {
                    "token": token,
                    "logprob": alternatives[0][1],
                    "bytes": None,
                    "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in alternatives],
                }
                for token, alternatives in logprobs
            ]
        }
    )
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": content}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def refusal(status, message):
    return status, {"error": {"message": message, "type": "t", "code": None}}


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "p.png"
    Image.new("RGB", (8, 6), (10, 200, 30)).save(path)
    return path


def _samples(*conversations):
    made = [Sample.make(str(i), one, unsafe=True) for i, one in enumerate(conversations)]
    return {sample.digest(): sample for sample in made}


def _judge(server, samples, folder, style="guard", settings=FAST, policy=DEFAULT_POLICY):
    endpoint = Endpoint("my server", server.url, "m", style)
    journal = Journal(folder, "endpoint", {})
    reason = judge_with_endpoint(endpoint, samples, policy, 0.5, settings, journal)
    journal.close()
    return reason, [journal.judged.get(digest) for digest in samples]


def test_a_guard_is_sent_the_conversation_itself(server, tmp_path, picture, monkeypatch):
    monkeypatch.setenv("MY_SERVER_API_KEY", "secret")
    server.answer = lambda _: reply("\n\nunsafe\nS1,S9")
    samples = _samples(Conversation.from_prompt("What?", "That.", picture))
    reason, (judged,) = _judge(server, samples, tmp_path)
    assert reason is None
    assert (judged.unsafe, judged.score, judged.categories, judged.no_answer) == (True, 1.0, ("S1", "S9"), False)
    assert judged.times_ms["total"] > 0
    (request,) = server.requests
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer secret", "m")
    user, assistant = request["messages"]
    image, text = user["content"]
    sent = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert sent == picture.read_bytes()
    assert (text["text"], assistant) == ("What?", {"role": "assistant", "content": "That."})


def test_a_general_model_is_told_of_the_policy(server, tmp_path, picture):
    samples = _samples(Conversation.from_prompt("What?", None, picture))
    _judge(server, samples, tmp_path, "zero-shot", policy=DEFAULT_POLICY.exclude(["S5"]))
    system, user = server.requests[0]["messages"]
    assert "S1: Violent Crimes." in system["content"]
    assert "S5:" not in system["content"]
    assert "LAST user message" in system["content"]
    assert [part["type"] for part in user["content"]] == ["text", "text", "image_url", "text", "text"]


def test_a_guard_cannot_be_told_of_another_policy(server, tmp_path):
    with pytest.raises(DataError, match="its own policy"):
        _judge(server, _samples(Conversation.from_prompt("a")), tmp_path, policy=DEFAULT_POLICY.exclude(["S5"]))


def test_probabilities_are_used_where_there_are_any(server, tmp_path):
    first = [("\n\n", -0.01)]
    words = [("unsafe", -0.5), ("safe", -1.0), ("un", -4.0), ("I", -5.0)]
    server.answer = lambda _: reply("\n\nunsafe\nS2", [("\n\n", first), ("unsafe", words)])
    _, (judged,) = _judge(server, _samples(Conversation.from_prompt("a")), tmp_path)
    unsafe, safe = 2.718281828**-0.5 + 2.718281828**-4, 2.718281828**-1
    assert judged.score == pytest.approx(unsafe / (unsafe + safe))
    assert judged.answer_mass == pytest.approx(unsafe + safe)
    assert server.requests[0]["logprobs"] is True


def test_an_answer_that_cannot_be_read_is_unsafe(server, tmp_path):
    server.answer = lambda _: reply("I cannot help with that.")
    reason, (judged,) = _judge(server, _samples(Conversation.from_prompt("a")), tmp_path)
    assert reason is None
    assert (judged.unsafe, judged.score, judged.no_answer) == (True, 1.0, True)


def test_a_refusal_of_the_api_is_no_answer(server, tmp_path):
    server.answer = lambda _: refusal(400, "content management policy")
    _, (judged,) = _judge(server, _samples(Conversation.from_prompt("a")), tmp_path)
    assert (judged.unsafe, judged.no_answer) == (True, True)


def test_options_that_an_api_does_not_know_are_dropped(server, tmp_path):
    def answer(request):
        if "logprobs" in request:
            return refusal(400, "logprobs are not supported by this model")
        if "max_tokens" in request:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in request:
            return refusal(400, "temperature does not support 0")
        return reply("safe")

    server.answer = answer
    reason, judged = _judge(server, _samples(*map(Conversation.from_prompt, "ab")), tmp_path)
    assert reason is None
    assert [(one.unsafe, one.score, one.no_answer) for one in judged] == [(False, 0.0, False)] * 2
    # It is learnt once.
    assert len(server.requests) == 5


def test_busy_servers_are_asked_again(server, tmp_path):
    statuses = iter([429, 503, None])

    def answer(_):
        status = next(statuses)
        return reply("safe") if status is None else refusal(status, "busy")

    server.answer = answer
    reason, (judged,) = _judge(server, _samples(Conversation.from_prompt("a")), tmp_path)
    assert (reason, judged.unsafe) == (None, False)
    assert len(server.requests) == 3


def test_what_got_no_answer_is_asked_by_the_next_run(server, tmp_path):
    texts = [Conversation.from_prompt(text) for text in ("one", "broken", "three")]
    server.answer = lambda request: refusal(500, "oh") if "broken" in str(request) else reply("safe")
    settings = EndpointSettings(retries=0)
    reason, judged = _judge(server, _samples(*texts), tmp_path, settings=settings)
    assert [one is None for one in judged] == [False, True, False]
    assert "1 samples got no answer" in reason
    server.answer, server.requests = (lambda _: reply("unsafe")), []
    reason, judged = _judge(server, _samples(*texts), tmp_path, settings=settings)
    assert (reason, len(server.requests)) == (None, 1)
    assert [one.unsafe for one in judged] == [False, True, False]


def test_a_dead_endpoint_is_given_up(server, tmp_path):
    server.answer = lambda _: refusal(500, "oh")
    samples = _samples(*(Conversation.from_prompt(f"q{i}") for i in range(20)))
    reason, judged = _judge(server, samples, tmp_path, settings=EndpointSettings(retries=0))
    assert "HTTP 500" in reason
    assert judged == [None] * 20
    assert len(server.requests) == MAX_FAILURES


def test_a_wrong_key_ends_it_at_once(server, tmp_path):
    server.answer = lambda _: refusal(401, "wrong key")
    reason, _ = _judge(server, _samples(*map(Conversation.from_prompt, "abc")), tmp_path)
    assert "HTTP 401" in reason
    assert len(server.requests) == 1


def test_the_rate_is_kept(server, tmp_path):
    started = time.monotonic()
    settings = EndpointSettings(requests_per_minute=300)
    _judge(server, _samples(*map(Conversation.from_prompt, "abcd")), tmp_path, settings=settings)
    assert time.monotonic() - started >= 0.6


def test_an_unreadable_image_is_skipped(server, tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    samples = _samples(Conversation.from_prompt("a", None, tmp_path / "p.png"))
    _, (judged,) = _judge(server, samples, tmp_path)
    assert (judged.unsafe, server.requests) == (None, [])
    assert "p.png" in judged.reason


def test_keys_come_from_the_environment(monkeypatch):
    endpoint = Endpoint("gpt-4o", "http://h", "m", "guard")
    for name in ("GPT_4O_API_KEY", "VISIONWARD_ENDPOINT_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert endpoint_key(endpoint) == "none"
    monkeypatch.setenv("VISIONWARD_ENDPOINT_KEY", "all")
    assert endpoint_key(endpoint) == "all"
    monkeypatch.setenv("GPT_4O_API_KEY", "own")
    assert endpoint_key(endpoint) == "own"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("safe", (False, (), True)),
        ("\n\nSafe\n", (False, (), True)),
        ("unsafe", (True, (), True)),
        ("unsafe\nS1, S9,S99,x", (True, ("S1", "S9"), True)),
        ("unsafe\ns10", (True, ("S10",), True)),
        ("safe\nS1", (True, (), False)),
        ("safe because it is", (True, (), False)),
        ("It is safe", (True, (), False)),
        ("safe.", (True, (), False)),
        ("", (True, (), False)),
        ("unsafe\nS1\nmore", (True, (), False)),
    ],
)
def test_answers_are_read_strictly(text, expected):
    answer = read_answer(text, DEFAULT_POLICY)
    assert (answer.unsafe, answer.categories, answer.understood) == expected


@given(st.text())
def test_nothing_but_safe_is_safe(text):
    assert read_answer(text, DEFAULT_POLICY).unsafe == (text.strip().lower() != "safe")


def test_scores_without_a_verdict_word():
    assert first_word_score([]) is None
    assert first_word_score([[("I", -0.1), ("We", -2.0)]]) is None
    assert first_word_score([[("\n", -0.1)], [("safe", 0.0)]]) == (0.0, 1.0)


def test_odd_images_are_sent_as_shown(tmp_path):
    """What a viewer shows is what must be judged: turned upright, transparency on white and on black."""
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), (255, 0, 0)).save(turned, exif=exif)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear)

    def sent(path):
        return [
            (head, Image.open(BytesIO(base64.b64decode(data))))
            for head, _, data in (url.partition(",") for url in data_urls(path))
        ]

    ((head, image),) = sent(turned)
    assert (head, image.size) == ("data:image/png;base64", (4, 8))
    assert [image.getpixel((0, 0)) for _, image in sent(clear)] == [(255, 255, 255), (0, 0, 0)]
    pillow_heif.from_pillow(Image.new("RGB", (64, 70), (255, 0, 0))).save(tmp_path / "photo.heic")
    ((head, image),) = sent(tmp_path / "photo.heic")
    assert (head, image.size) == ("data:image/png;base64", (64, 70))
    with pytest.raises(ImageError):
        data_urls(tmp_path / "missing.png")


def test_roles(picture):
    response = Conversation.from_prompt("a", "b", picture)
    assert "LAST assistant message" in messages(response, DEFAULT_POLICY, "zero-shot")[0]["content"]
