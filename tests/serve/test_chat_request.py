"""What a chat request may have, and what is refused with which words."""

import base64
import contextlib
import json
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visionward.errors import ConversationError, ImageError
from visionward.serve.api_error import ApiError, InvalidRequestError
from visionward.serve.chat_request import ChatRequest
from visionward.serve.judged_messages import MERGED
from visionward.serve.request_fields import Fields
from visionward.serve.request_limits import RequestLimits

HELLO = [{"role": "user", "content": "hello"}]
LIMITS = RequestLimits(max_messages=4, max_images=2)


def read(**values):
    body = {"model": "guard", "messages": HELLO, **values}
    return ChatRequest.read(Fields.parse(json.dumps(body).encode()), LIMITS)


def data_url():
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (0, 90, 0)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_part(url):
    return {"type": "image_url", "image_url": {"url": url}}


def test_a_plain_request():
    request = read()
    assert (request.model, request.stream, request.n, request.max_tokens, request.stop) == ("guard", False, 1, None, ())
    assert request.judged.conversation({}).texts == ("hello",)


def test_what_openai_clients_send_along_changes_nothing():
    sent = {
        "temperature": 0,
        "top_p": 1.0,
        "frequency_penalty": 0,
        "presence_penalty": -2,
        "seed": 7,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "reasoning_effort": "low",
    }
    assert read(**sent) == read()
    assert read(**dict.fromkeys(sent)) == read()


def test_a_system_message_is_left_out_with_a_warning():
    for role in ("system", "developer"):
        conversation = read(messages=[{"role": role, "content": "You know all."}, *HELLO]).judged.conversation({})
        assert conversation.texts == ("hello",)
        assert conversation.warnings == ("1 system message was left out of the conversation and not judged.",)


def test_consecutive_messages_are_joined_with_a_warning():
    conversation = read(messages=[*HELLO, {"role": "user", "content": "again"}]).judged.conversation({})
    assert conversation.texts == ("hello", "again")
    assert len(conversation.messages) == 1
    assert conversation.warnings == (MERGED,)


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"colour": 1}, "colour", "unknown_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 3}, "model", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "hello"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"top_logprobs": 2}, "top_logprobs", None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "value_out_of_range"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"n": 0}, "n", "value_out_of_range"),
        ({"n": True}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "value_out_of_range"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", None),
        ({"temperature": 2.1}, "temperature", "value_out_of_range"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"seed": 2**70}, "seed", "value_out_of_range"),
        ({"user": 7}, "user", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", None),
        ({"stop": [""]}, "stop", None),
        ({"stop": 4}, "stop", "invalid_type"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"functions": [{}]}, "functions", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"logit_bias": {"5": 100}}, "logit_bias", "unsupported_parameter"),
        ({"visionward": {"verdict": "safe"}}, "visionward.verdict", "unknown_parameter"),
    ],
)
def test_what_is_wrong_is_named(values, param, code):
    with pytest.raises(InvalidRequestError) as caught:
        read(**values)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "a", "model": "b"}',
        b"[" * 100_000,
        b'{"n": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_body_that_cannot_be_read(body):
    with pytest.raises(InvalidRequestError, match=r"^the body "):
        Fields.parse(body)


def test_a_small_body_that_would_take_much_memory():
    for body in (b"[" + b"[]," * 100_001 + b"[]]", b"[" * 300_000, b'{"model": ' + b"[{}," * 150_000):
        with pytest.raises(ApiError, match="200,000 values") as caught:
            Fields.parse(body)
        assert caught.value.status == 413


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_an_object_or_a_refusal(body):
    with contextlib.suppress(InvalidRequestError):
        ChatRequest.read(Fields.parse(body), LIMITS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["messages", "model", "stream", "n", "stop", "max_tokens", "logprobs", "top_logprobs", "tools", "stream_options"]
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])}, optional={"text": JSON, "image_url": JSON}
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"])},
        optional={"content": JSON | st.lists(PARTS, max_size=3)},
    ),
    max_size=3,
)


@given(st.dictionaries(FIELDS, JSON, max_size=3), MESSAGES | JSON)
def test_any_values_are_a_request_or_a_refusal(values, messages):
    with contextlib.suppress(ApiError, ConversationError, ImageError):
        read(**{"messages": messages, **values}).judged.conversation({})


def test_more_than_the_limits_is_too_large():
    many = HELLO * 5
    images = [{"role": "user", "content": [image_part(data_url())] * 3}]
    for messages, what in ((many, "5 messages"), (images, "3 images")):
        with pytest.raises(ApiError, match=what) as caught:
            read(messages=messages)
        assert (caught.value.status, caught.value.code) == (413, "request_too_large")


def test_files_are_never_opened(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path)
    for url in (str(path), path.as_uri(), "/etc/hostname", "ftp://example.org/a.png"):
        for part in (image_part(url), {"type": "input_image", "image_url": url}, {"type": "image", "image": url}):
            judged = read(messages=[{"role": "user", "content": [part]}]).judged
            assert judged.remote_urls == ()
            with pytest.raises(ConversationError, match="message 1: "):
                judged.conversation({})


def test_remote_images_are_found_and_put_in():
    urls = ["https://a.example/1.png", "HTTP://b.example/2.png"]
    content = [image_part(urls[0]), {"type": "input_image", "image_url": urls[1]}, {"type": "text", "text": "hello"}]
    judged = read(messages=[{"role": "user", "content": content}]).judged
    assert judged.remote_urls == tuple(urls)
    assert judged.conversation({urls[0]: b"one", urls[1]: b"two"}).images == (b"one", b"two")
    with pytest.raises(ConversationError, match="nothing is downloaded"):
        judged.conversation({urls[0]: b"one"})


def test_a_remote_image_of_a_system_message_is_not_even_asked_for():
    system = {"role": "system", "content": [image_part("https://a.example/1.png")]}
    assert read(messages=[system, *HELLO]).judged.remote_urls == ()


def test_equal_requests_are_equal():
    assert replace(read(), n=2) == read(n=2)
