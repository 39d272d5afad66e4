"""The chat responses, read by the types of the official client and by an independent reader of guards' answers."""

import json
import math
from dataclasses import replace

import pytest
from fake_guard import SAFE, UNSAFE
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from visionward.compare.endpoint_prompt import first_word_score, read_answer
from visionward.runtime.guard.policy import DEFAULT_POLICY
from visionward.serve.chat_request import ChatRequest
from visionward.serve.chat_response import LOGPROB_OF_ZERO, Answer, ChatResponse
from visionward.serve.judged_messages import JudgedMessages

REQUEST = ChatRequest("guard", JudgedMessages((), "messages"))


def completion(verdict, **options):
    found = ChatResponse(replace(REQUEST, **options), verdict, queue_ms=3.0).to_dict()
    return ChatCompletion.model_validate(json.loads(json.dumps(found, allow_nan=False)), strict=True)


def chunks(verdict, **options):
    *events, done = ChatResponse(replace(REQUEST, stream=True, **options), verdict).events()
    assert done == b"data: [DONE]\n\n"
    for event in events:
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        yield ChatCompletionChunk.model_validate(json.loads(event[6:]), strict=True)


def test_the_words_of_a_hosted_guard():
    for verdict, text in ((SAFE, "safe"), (UNSAFE, "unsafe\nS9,S1"), (replace(UNSAFE, categories=()), "unsafe")):
        found = completion(verdict)
        assert found.choices[0].message.content == text
        assert found.choices[0].finish_reason == "stop"
        read = read_answer(text, DEFAULT_POLICY)
        assert read.understood
        assert read.unsafe == verdict.unsafe
        assert read.categories == tuple(category.code for category in verdict.categories)


def test_the_extra_field_has_the_whole_verdict():
    found = completion(UNSAFE).model_extra["visionward"]
    assert found["score"] == UNSAFE.score
    assert found["category_scores"] == {"S1": 0.3, "S9": 0.8}
    assert found["warnings"] == ["no image was given."]
    assert found["timings_ms"]["queue"] == 3.0
    assert found["timings_ms"]["prefill"] == UNSAFE.timings_ms.prefill


def test_usage():
    safe, unsafe = completion(SAFE, n=3).usage, completion(UNSAFE).usage
    assert (safe.prompt_tokens, safe.completion_tokens, safe.total_tokens) == (200, 3, 203)
    assert (unsafe.prompt_tokens, unsafe.completion_tokens, unsafe.total_tokens) == (210, 6, 216)


def test_n_choices_are_the_same():
    found = completion(UNSAFE, n=3)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert {choice.message.content for choice in found.choices} == {"unsafe\nS9,S1"}


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(1, "unsafe", "length"), (5, "unsafe", "length"), (6, None, "stop")]
)
def test_an_answer_that_is_too_long_is_its_first_word(limit, text, reason):
    choice = completion(UNSAFE, max_tokens=limit).choices[0]
    assert choice.message.content == (text or "unsafe\nS9,S1")
    assert choice.finish_reason == reason
    assert completion(UNSAFE, max_tokens=limit).usage.completion_tokens <= limit
    assert completion(SAFE, max_tokens=1).choices[0].finish_reason == "stop"


def test_stop_sequences():
    for stop, text in (
        (("\n",), "unsafe"),
        (("S1",), "unsafe\nS9,"),
        (("x",), "unsafe\nS9,S1"),
        (("safe", "\n"), "un"),
    ):
        assert completion(UNSAFE, stop=stop).choices[0].message.content == text
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks(UNSAFE, stop=stop)) == text


@given(st.integers(1, 9), st.lists(st.text(alphabet="unsafeS19,\n", min_size=1, max_size=6), max_size=4))
def test_unsafe_never_becomes_safe(limit, stop):
    assert Answer.of(UNSAFE, limit, tuple(stop)).text.strip() != "safe"


def test_logprobs_are_those_of_the_verdict():
    found = completion(UNSAFE, logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert [token.token for token in found] == ["unsafe"]
    assert found[0].logprob == pytest.approx(math.log(0.93 * 0.98))
    assert {top.token: top.logprob for top in found[0].top_logprobs} == pytest.approx(
        {"unsafe": math.log(0.93 * 0.98), "safe": math.log(0.07 * 0.98)}
    )
    assert bytes(found[0].bytes) == b"unsafe"
    # What `visionward compare` reads from any server.
    score, mass = first_word_score([[(top.token, top.logprob) for top in found[0].top_logprobs]])
    assert (score, mass) == pytest.approx((UNSAFE.score, UNSAFE.answer_mass))


def test_logprobs_that_were_not_asked_for():
    assert completion(SAFE).choices[0].logprobs is None
    assert completion(SAFE, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    one = completion(SAFE, logprobs=True, top_logprobs=1).choices[0].logprobs.content[0]
    assert [top.token for top in one.top_logprobs] == ["safe"]


def test_a_verdict_against_the_likelier_word_has_its_own_logprob():
    """A low threshold, or an answer mass that is too low."""
    strict = replace(UNSAFE, score=0.2, answer_mass=0.4)
    token = completion(strict, logprobs=True, top_logprobs=2).choices[0].logprobs.content[0]
    assert (token.token, token.logprob) == ("unsafe", pytest.approx(math.log(0.08)))
    assert [top.token for top in token.top_logprobs] == ["safe", "unsafe"]


def test_probability_zero_is_openais_number():
    token = completion(replace(SAFE, score=0.0), logprobs=True, top_logprobs=2).choices[0].logprobs.content[0]
    assert token.top_logprobs[1].logprob == LOGPROB_OF_ZERO


def test_a_stream_is_the_answer_in_pieces():
    for verdict in (SAFE, UNSAFE):
        found = list(chunks(verdict, logprobs=True, top_logprobs=2))
        assert found[0].choices[0].delta.role == "assistant"
        whole = completion(verdict, logprobs=True, top_logprobs=2)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in found) == whole.choices[0].message.content
        assert [chunk.choices[0].finish_reason for chunk in found][-1] == "stop"
        logprobs = [chunk.choices[0].logprobs for chunk in found if chunk.choices[0].logprobs is not None]
        assert [one.content for one in logprobs] == [whole.choices[0].logprobs.content]
        assert found[-1].model_extra["visionward"]["score"] == verdict.score
        assert len({chunk.id for chunk in found}) == 1
        assert all(chunk.usage is None for chunk in found)


def test_a_stream_with_usage_ends_with_it():
    *found, last = chunks(UNSAFE, include_usage=True, n=2)
    assert last.choices == []
    assert last.usage.completion_tokens == 12
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in found)
    assert {chunk.choices[0].index for chunk in found} == {0, 1}
