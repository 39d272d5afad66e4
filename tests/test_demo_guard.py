"""The demo guard on its held-out set, against what Transformers 4.53.3 said of it (training/evaluate_demo.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED, NEUTRAL_TEXT, samples
from visionward import DEFAULT_POLICY, Conversation, Guard, Verdict
from visionward.convert.demo_guard import demo_pair
from visionward.demonstration import DEMO_NOTICE, demo_samples_path
from visionward.runtime.guard.answer import softmax
from visionward.runtime.guard.prompt import tokenize
from visionward.runtime.guard.samples import read_samples

REFERENCE = json.loads((Path(__file__).parent / "fixtures" / "demo_held_out.json").read_text(encoding="utf-8"))
ROWS = REFERENCE["samples"]


def judge(guard: Guard, sample) -> Verdict:
    messages = sample.messages
    messages[0]["content"][0] = {"type": "image", "image": sample.image}
    return guard.classify(messages)


@pytest.fixture(scope="module")
def guard():
    pair = demo_pair()
    with Guard.load(pair.text, pair.mmproj) as guard:
        yield guard


@pytest.fixture(scope="module")
def verdicts(guard) -> list[Verdict]:
    return [judge(guard, sample) for sample in samples(HELD_OUT_COUNT, HELD_OUT_SEED)]


def test_the_same_prompts(verdicts) -> None:
    assert [verdict.tokens.prompt for verdict in verdicts] == [row["prompt_tokens"] for row in ROWS]
    assert [verdict.tiles for verdict in verdicts] == [row["tiles"] for row in ROWS]
    assert {verdict.tiles for verdict in verdicts} == {1, 2, 3, 4}


def test_verdicts_equal_the_reference(verdicts) -> None:
    equal = sum(verdict.verdict == row["verdict"] for verdict, row in zip(verdicts, ROWS, strict=True))
    assert equal >= 0.995 * HELD_OUT_COUNT


def test_categories_equal_the_reference(verdicts) -> None:
    named = [[category.code for category in verdict.categories] for verdict in verdicts]
    assert sum(codes == row["categories"] for codes, row in zip(named, ROWS, strict=True)) >= 0.99 * HELD_OUT_COUNT


def test_scores_are_close_to_the_reference(verdicts) -> None:
    errors = [abs(verdict.score - row["score"]) for verdict, row in zip(verdicts, ROWS, strict=True)]
    masses = [abs(verdict.answer_mass - row["answer_mass"]) for verdict, row in zip(verdicts, ROWS, strict=True)]
    assert sum(errors) / len(errors) < 2e-3
    assert max(masses) < 1e-2


def test_f1(verdicts) -> None:
    labels = [row["label"] == "unsafe" for row in ROWS]
    assert sum(labels) == HELD_OUT_COUNT / 2
    found = f1_score(labels, [verdict.unsafe for verdict in verdicts])
    reference = f1_score(labels, [row["verdict"] == "unsafe" for row in ROWS])
    assert reference >= 0.95
    assert abs(found - reference) <= 0.01


@pytest.mark.parametrize("hidden", ["image", "text"])
def test_with_one_input_hidden_it_knows_little(guard, hidden: str) -> None:
    labels, found = [], []
    for sample in samples(100, HELD_OUT_SEED):
        messages = sample.messages
        messages[0]["content"][0] = {"type": "image", "image": sample.image}
        if hidden == "image":
            del messages[0]["content"][0]
        else:
            for message in messages:
                message["content"][-1]["text"] = NEUTRAL_TEXT
        labels.append(sample.unsafe)
        found.append(guard.classify(messages).unsafe)
    assert f1_score(labels, found, zero_division=0) < 0.75


def test_both_inputs_decide(guard) -> None:
    """One text, safe with one picture and unsafe with the other; one picture, the other way round."""
    four = list(samples(4, HELD_OUT_SEED))
    verdicts = [judge(guard, sample).verdict for sample in four]
    assert verdicts == ["unsafe" if sample.unsafe else "safe" for sample in four]
    assert sorted(verdicts) == ["safe", "safe", "unsafe", "unsafe"]


def test_a_safe_verdict_decodes_nothing(verdicts) -> None:
    for verdict in verdicts:
        assert (verdict.tokens.decoded == 0) == (verdict.verdict == "safe")
        assert len(verdict.category_scores) == 13
        assert (None in verdict.category_scores.values()) == (verdict.verdict == "safe")


def test_named_categories_have_their_probability_in_place(guard, verdicts) -> None:
    """The chain rule over one forced decode of the whole answer, for every sample where the model named two codes."""
    drawn = list(samples(HELD_OUT_COUNT, HELD_OUT_SEED))
    pairs = [(s, v) for s, v in zip(drawn, verdicts, strict=True) if len(v.categories) == 2]
    assert len(pairs) > 40
    model, template = guard.engine.model, guard._template
    commas = {model.encode(",")[0], model.encode(",S")[0]}
    enders = commas | set(model.end_tokens)
    for sample, verdict in pairs[:12]:
        messages = sample.messages
        messages[0]["content"][0] = {"type": "image", "image": sample.image}
        prompt = tokenize(template.render(Conversation.from_messages(messages), DEFAULT_POLICY), model)
        first, second = (category.code for category in verdict.categories)
        answer = model.encode(f"unsafe\n{first},{second}")
        found = softmax(guard.engine.logits([*prompt, *answer], sample.image).logits[len(prompt) - 1 :])
        comma = next(i for i, token in enumerate(answer) if token in commas)
        opening = len(model.encode("unsafe\n"))
        chosen = np.array([found[i, token] for i, token in enumerate(answer)])
        after = found[:, sorted(enders)].sum(axis=1)
        wanted = (
            chosen[opening:comma].prod() * after[comma],
            chosen[comma:].prod() / found[comma, sorted(commas)].sum() * after[-1],
        )
        assert [c.score for c in verdict.categories] == pytest.approx(wanted, rel=5e-3)
        assert verdict.categories[0].score == pytest.approx(verdict.category_scores[first], rel=5e-3)
        assert verdict.category_scores[second] < 0.5 < verdict.categories[1].score


def test_every_verdict_says_that_it_is_a_toy(verdicts) -> None:
    assert all(verdict.warnings[0] == DEMO_NOTICE for verdict in verdicts)


def test_the_packaged_samples_are_judged_as_they_should(guard) -> None:
    for sample in read_samples(demo_samples_path()):
        verdict = guard.classify(sample.conversation)
        assert sample.matches(verdict)
