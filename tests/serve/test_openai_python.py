"""The official Python client, unchanged but for base URL and key, against the demonstration guard."""

import base64
import json
import math
import re
import threading
from contextlib import redirect_stdout
from importlib import resources
from io import StringIO
from pathlib import Path

import openai
import pytest
from fake_guard import SAFE
from openai import OpenAI
from running_server import RunningServer, WordGuard, until
from served_demo import HOSTED_NAME, KEY

from visionward.errors import ComputeError

SAMPLES = resources.files("visionward") / "demo_guard" / "samples"
HOSTING_PAGE = """
client = OpenAI(base_url=base_url, api_key=api_key)

completion = client.chat.completions.create(
    model="meta-llama/Llama-Guard-3-11B-Vision-Turbo",
    messages=[
        {"role": "system", "content": "You are an AI assistant who knows everything."},
        {"role": "user", "content": "Tell me, why is the sky blue?"},
    ],
)

print(completion.choices[0].message.content)
"""


@pytest.fixture(scope="module")
def client(demo):
    with OpenAI(base_url=demo.url, api_key=KEY, max_retries=0) as made:
        yield made


def data_url(name):
    return "data:image/jpeg;base64," + base64.b64encode((SAMPLES / name).read_bytes()).decode()


def shown(name, text):
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_url(name), "detail": "auto"}},
            {"type": "text", "text": text},
        ],
    }


def samples():
    lines = (SAMPLES / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    for sample in map(json.loads, lines):
        messages = [shown(sample["image"], sample["prompt"])]
        if "response" in sample:
            messages.append({"role": "assistant", "content": sample["response"]})
        codes = ",".join(sample["categories"])
        yield messages, f"unsafe\n{codes}" if codes else sample["label"]


def chat(client, messages, **options):
    return client.chat.completions.create(model=HOSTED_NAME, messages=messages, **options)


def test_the_snippet_of_a_hosting_page(demo):
    output = StringIO()
    with redirect_stdout(output):
        exec(HOSTING_PAGE, {"OpenAI": OpenAI, "base_url": demo.url, "api_key": KEY})  # noqa: S102 - our own text
    assert output.getvalue() in ("safe\n", "unsafe\n") or output.getvalue().startswith("unsafe\nS")


def test_the_program_in_the_readme(demo):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Behind the OpenAI API")[2]
    command, program = re.findall(r"```(?:sh|python)\n(.*?)```", section, re.DOTALL)[:2]
    assert command == f"visionward serve --demo --alias {HOSTED_NAME}\n"
    for shown, used in (("http://127.0.0.1:8000/v1", demo.url), ('api_key="none"', f'api_key="{KEY}"')):
        assert shown in program
        program = program.replace(shown, used)
    output = StringIO()
    with redirect_stdout(output):
        exec(program, {})  # noqa: S102 - it is for people to run
    content, score = output.getvalue().strip().rsplit("\n", 1)
    assert content.split("\n")[0] == ("unsafe" if float(score) >= 0.5 else "safe")


def test_a_system_message_is_no_part_of_what_is_judged(client):
    user = {"role": "user", "content": "Tell me, why is the sky blue?"}
    system = {"role": "system", "content": "You are an AI assistant who knows everything."}
    with_it, without = chat(client, [system, user]), chat(client, [user])
    assert with_it.visionward["score"] == without.visionward["score"]
    assert with_it.usage == without.usage
    left_out = [warning for warning in with_it.visionward["warnings"] if "system message" in warning]
    assert len(left_out) == 1
    assert not any("system message" in warning for warning in without.visionward["warnings"])


@pytest.mark.parametrize(("messages", "expected"), list(samples()))
def test_the_samples_of_the_demonstration_guard(client, messages, expected):
    """Prompts and responses, with images of one to four tiles."""
    found = chat(client, messages, logprobs=True, top_logprobs=2, temperature=0, max_tokens=60)
    content = found.choices[0].message.content
    assert content == expected
    own = found.visionward
    assert own["role"] == ("User" if len(messages) == 1 else "Agent")
    assert own["tiles"] >= 1
    token = found.choices[0].logprobs.content[0]
    probabilities = {top.token: math.exp(top.logprob) for top in token.top_logprobs}
    assert probabilities["unsafe"] / sum(probabilities.values()) == pytest.approx(own["score"])
    assert sum(probabilities.values()) == pytest.approx(own["answer_mass"])
    assert found.usage.prompt_tokens == own["tokens"]["prompt"]


def test_streams(client):
    for messages, _ in list(samples())[:2]:
        whole = chat(client, messages).choices[0].message.content
        chunks = list(chat(client, messages, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole
        assert chunks[-1].usage.prompt_tokens > 100
        assert chunks[-2].visionward["verdict"] == whole.split("\n")[0]


def test_the_helper_for_streams(client):
    messages, expected = next(samples())
    with client.chat.completions.stream(model=HOSTED_NAME, messages=messages) as stream:
        assert stream.get_final_completion().choices[0].message.content == expected


def test_moderations(client):
    found = client.moderations.create(model="omni-moderation-latest", input=["Tell me of the sky.", "And of the sea."])
    assert len(found.results) == 2
    assert found.model == "demo-guard-text-F16"
    parts = shown("picture_1_2_tiles.jpg", "How do I draw the moon?")["content"]
    (result,) = client.moderations.create(input=parts).results
    assert result.flagged is True
    assert result.categories.S6 is True
    assert result.category_scores.S6 > 0.9
    assert result.category_applied_input_types.harassment == ["text", "image"]
    (safe,) = client.moderations.create(
        input=shown("picture_2_1_tiles.jpg", "How do I draw the moon?")["content"]
    ).results
    assert safe.flagged is False
    assert max(vars(safe.category_scores).values()) < 0.1


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo-guard-text-F16", HOSTED_NAME]
    assert client.models.retrieve(HOSTED_NAME).owned_by == "visionward"


def test_the_same_image_is_encoded_once(client):
    """The second request, which judges the response, costs the text alone."""
    prompt = shown("picture_4_4_tiles.jpg", "A prompt that no other test has.")
    first = chat(client, [prompt]).visionward
    second = chat(client, [prompt, {"role": "assistant", "content": "Yes."}]).visionward
    assert (first["tiles"], second["tiles"]) == (4, 4)
    assert second["timings_ms"]["vision"] < 1.0
    assert second["timings_ms"]["prefill"] > second["timings_ms"]["vision"]


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "empty_array"),
        ({"messages": [{"role": "user", "content": "x" * 2**21}]}, openai.APIStatusError, "request_too_large"),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ({"extra_body": {"colour": 1}}, openai.BadRequestError, "unknown_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "unsupported_parameter"),
        ({"temperature": 3}, openai.BadRequestError, "value_out_of_range"),
    ],
)
def test_errors(client, change, error, code):
    values = {"model": HOSTED_NAME, "messages": [{"role": "user", "content": "hello"}], **change}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**values)
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id.startswith("req_")
    assert caught.value.status_code == (413 if code == "request_too_large" else caught.value.status_code)


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAAA", "data:image/png;base64,%%%", "/etc/hostname", "https://a.example/b.png"]
)
def test_images_that_cannot_be_used(client, url):
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [{"role": "user", "content": [part, {"type": "text", "text": "hello"}]}])
    assert caught.value.param == "messages"


def test_a_wrong_key(demo):
    for key in ("wrong", KEY + "x"):
        with (
            OpenAI(base_url=demo.url, api_key=key, max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()


def test_overload_and_failures():
    guard = WordGuard()
    with RunningServer(guard, max_waiting=0) as server:
        impatient = OpenAI(base_url=server.url, api_key="none", max_retries=0)
        hello = [{"role": "user", "content": "wait"}]
        waiting = OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            waiting.chat.completions.create(model="guard", messages=hello)
        until(lambda: guard.cancelled == 1)
        assert server.chat("hello")[0] == 200
        for error, kind in ((ComputeError("x"), "classification_failed"), (RuntimeError("x"), "internal_error")):
            guard.error = error
            with pytest.raises(openai.InternalServerError) as caught:
                impatient.chat.completions.create(model="guard", messages=[{"role": "user", "content": "error"}])
            assert caught.value.code == kind


def test_a_client_comes_back_after_429():
    """The client waits as long as Retry-After says, and asks again."""
    guard = WordGuard()
    with RunningServer(guard, max_waiting=0) as server:
        first = threading.Thread(target=server.chat, args=("wait",))
        first.start()
        until(lambda: guard.running == 1)
        patient = OpenAI(base_url=server.url, api_key="none", max_retries=2)
        with pytest.raises(openai.RateLimitError):
            patient.with_options(max_retries=0).chat.completions.create(
                model="guard", messages=[{"role": "user", "content": "hello"}]
            )
        threading.Timer(0.3, guard.release.set).start()
        found = patient.chat.completions.create(model="guard", messages=[{"role": "user", "content": "hello"}])
        assert found.choices[0].message.content == SAFE.verdict
        first.join()
