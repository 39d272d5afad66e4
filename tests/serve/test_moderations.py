"""Moderations: the request, the mapping to OpenAI's categories, and the response in the official client's types."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_guard import SAFE, UNSAFE
from openai.types import ModerationCreateResponse
from openai.types.moderation import Categories

from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.serve.api_error import ApiError, InvalidRequestError
from visionward.serve.moderation_categories import HAZARDS_OF
from visionward.serve.moderation_request import DEFAULT_MODEL, ModerationRequest
from visionward.serve.moderation_response import Moderated, hazard_score, moderation_response
from visionward.serve.request_fields import Fields
from visionward.serve.request_limits import RequestLimits

SCORED = dict.fromkeys(DEFAULT_POLICY.codes, 0.01)
TEXT = Conversation.from_prompt("hello")
BOTH = Conversation.from_prompt("hello", image=b"...")


def read(**values):
    limits = RequestLimits(max_messages=3, max_images=1)
    return ModerationRequest.read(Fields.parse(json.dumps(values).encode()), limits)


def respond(*verdicts, conversation=TEXT, policy=DEFAULT_POLICY):
    found = moderation_response("guard", [Moderated(conversation, verdict) for verdict in verdicts], policy)
    text = json.dumps(found, allow_nan=False)
    # As the client reads a response. Its types allow some categories for text alone, and it does not insist.
    return ModerationCreateResponse.construct(**json.loads(text)), json.loads(text)["results"]


def test_inputs():
    assert [one.conversation({}).texts for one in read(input="a").inputs] == [("a",)]
    assert [one.conversation({}).texts for one in read(input=["a", "b"]).inputs] == [("a",), ("b",)]
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:;base64,QUJD"}}]
    (one,) = read(input=parts, model="guard").inputs
    assert (one.conversation({}).texts, one.conversation({}).images) == (("a",), (b"ABC",))
    assert read(input="a").model == DEFAULT_MODEL


@pytest.mark.parametrize(
    "values", [{}, {"input": []}, {"input": 5}, {"input": ["a", {}]}, {"input": [[1]]}, {"input": "a", "user": "x"}]
)
def test_inputs_that_are_none(values):
    with pytest.raises(InvalidRequestError):
        read(**values)


def test_inputs_beyond_the_limits():
    part = {"type": "image_url", "image_url": {"url": "data:;base64,QUJD"}}
    for found in (["a"] * 4, [part] * 2):
        with pytest.raises(ApiError) as caught:
            read(input=found)
        assert caught.value.status == 413


def test_the_mapping_has_openais_categories_and_hazards_of_the_policy():
    names = {field.alias or name for name, field in Categories.model_fields.items()}
    assert set(HAZARDS_OF) == names
    assert {code for codes in HAZARDS_OF.values() for code in codes} <= set(DEFAULT_POLICY.codes)


def test_a_safe_input():
    whole, (raw,) = respond(replace(SAFE, category_scores=SCORED))
    assert whole.results[0].flagged is False
    assert not any(raw["categories"].values())
    assert raw["category_scores"]["S1"] == pytest.approx(SAFE.score * 0.01)
    assert raw["category_scores"]["violence"] == raw["category_scores"]["S1"]
    assert set(raw["categories"]) == {*HAZARDS_OF, *DEFAULT_POLICY.codes}
    assert set(raw["categories"]) == set(raw["category_scores"]) == set(raw["category_applied_input_types"])


def test_an_unsafe_input():
    verdict = replace(UNSAFE, category_scores={**SCORED, "S9": 0.8})
    whole, (raw,) = respond(verdict, conversation=BOTH)
    result = whole.results[0]
    assert result.flagged is True
    assert result.categories.illicit_violent is True
    assert result.categories.violence is True  # S1, named second
    assert result.categories.sexual is False
    assert result.category_scores.illicit_violent == pytest.approx(0.93 * 0.8)
    assert result.category_scores.violence == pytest.approx(0.93 * 0.3)
    assert result.category_applied_input_types.violence == ["text", "image"]
    assert result.category_applied_input_types.violence_graphic == []
    assert raw["category_scores"]["violence/graphic"] == 0.0
    assert raw["visionward"]["answer_mass"] == 0.98


def test_what_was_judged_is_what_was_given():
    verdict = replace(SAFE, category_scores=SCORED)
    image = Conversation.from_prompt(None, image=b"...")
    for conversation, types in ((TEXT, ["text"]), (BOTH, ["text", "image"]), (image, ["image"])):
        _, (raw,) = respond(verdict, conversation=conversation)
        assert raw["category_applied_input_types"]["hate"] == types


def test_a_policy_of_other_meaning_does_not_count_as_openais():
    policy = Policy.from_mapping({"S1": "Spoilers", "S9": "Indiscriminate Weapons"})
    _, (raw,) = respond(replace(UNSAFE, category_scores={"S1": 0.3, "S9": 0.8}), policy=policy)
    assert raw["categories"]["S1"] is True
    assert raw["categories"]["violence"] is False
    assert raw["category_applied_input_types"]["violence"] == []
    assert raw["categories"]["illicit/violent"] is True


def test_a_category_that_was_not_scored_is_no_zero():
    with pytest.raises(ValueError, match="S1 was not scored"):
        hazard_score(SAFE, "S1")


def test_the_page_has_the_mapping():
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z/-]+)` \| ([^|]+) \|$", page, re.MULTILINE))
    written = {name: tuple(re.findall(r"S\d+", codes)) for name, codes in rows.items() if name in HAZARDS_OF}
    assert written == HAZARDS_OF
