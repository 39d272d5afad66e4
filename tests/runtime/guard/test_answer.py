"""Reading answers: category scores against separate full prefills, and answers that a model could give."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from visionward import DEFAULT_POLICY, Policy
from visionward.errors import ComputeError, ModelFileError
from visionward.runtime.guard.answer import AnswerReader, softmax

END = 0
WORDS = {1: "safe", 2: "unsafe", 3: "\n", 4: "S", 5: ",", 6: ",S", **{10 + d: str(d) for d in range(10)}, 30: "10"}
SIZE = 40


class Vocabulary:
    """A small vocabulary in Llama 3's manner: digits in one piece, a comma and a letter in one piece."""

    end_tokens: Sequence[int] = [END]

    def __init__(self, words: dict[int, str] = WORDS) -> None:
        self._words = words

    def encode(self, text: str) -> list[int]:
        tokens = []
        while text:
            token, word = max(((t, w) for t, w in self._words.items() if text.startswith(w)), key=lambda tw: len(tw[1]))
            tokens.append(token)
            text = text[len(word) :]
        return tokens

    def text_of(self, token: int) -> str:
        return self._words.get(token, "\ufffd")

    def ends_answer(self, token: int) -> bool:
        return token == END


class Script:
    """A decoder whose greedy answer is written down, and that records what it read."""

    def __init__(self, answer: Sequence[int]) -> None:
        self._answer = list(answer)
        self.read: list[list[int]] = []

    def _next(self) -> npt.NDArray[np.float32]:
        logits = np.zeros(SIZE, np.float32)
        logits[self._answer.pop(0) if self._answer else END] = 9
        return logits

    def extend(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self.read.append(list(tokens))
        return self._next()

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        return [np.zeros((len(c), SIZE), np.float32) for c in continuations]


def named(text: str, policy: Policy = DEFAULT_POLICY, *, ends: bool = True):
    tokens = Vocabulary().encode(text)
    decoder = Script([*tokens, END] if ends else tokens * 50)
    reader = AnswerReader(Vocabulary())
    _, logits = reader.category_scores(decoder, policy)
    return reader.named_codes(decoder, logits, policy)


@pytest.mark.parametrize(
    ("text", "codes", "warning"),
    [
        ("S1", ("S1",), None),
        ("S10", ("S10",), None),
        ("S1,S9", ("S1", "S9"), None),
        ("S9,S1,S9", ("S9", "S1"), None),
        ("S14", (), "named S14, which is not in the policy"),
        ("S1,S44,S2", ("S1", "S2"), "named S44, which is not in the policy"),
        ("S1,safe", ("S1",), "named 'safe', which is not a category code"),
        ("", (), "named '', which is not a category code"),
        ("S01", (), "named 'S01', which is not a category code"),
    ],
)
def test_codes_that_the_model_names(text: str, codes: tuple[str, ...], warning: str | None) -> None:
    found = named(text)
    assert tuple(found.scores) == codes
    assert (found.warnings == ()) if warning is None else (warning in " ".join(found.warnings))


def test_an_answer_without_end_leaves_out_its_last_part() -> None:
    found = named("S1,S10", DEFAULT_POLICY, ends=False)
    assert found.tokens == 6 * 13
    assert "did not end within 78 tokens" in found.warnings[0]


def test_a_code_that_was_excluded_is_left_out() -> None:
    found = named("S1,S9", DEFAULT_POLICY.exclude(["S9"]))
    assert tuple(found.scores) == ("S1",)
    assert "S9" in found.warnings[0]


class Tree:
    """A decoder whose distributions depend on what was read behind the prompt: a few tokens, the others improbable."""

    def __init__(self, distributions: dict[tuple[int, ...], dict[int, float]]) -> None:
        self._distributions = distributions
        self._read: tuple[int, ...] = ()

    def _logits(self, read: tuple[int, ...]) -> npt.NDArray[np.float32]:
        logits = np.full(SIZE, -60, np.float32)
        for token, probability in self._distributions.get(read, {END: 1.0}).items():
            logits[token] = np.log(probability)
        return logits

    def extend(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._read += tuple(tokens)
        return self._logits(self._read)

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        return [
            np.stack([self._logits(self._read + tuple(one[: i + 1])) for i in range(len(one))]) for one in continuations
        ]


def test_a_further_code_is_scored_behind_the_comma() -> None:
    opening, one, ten = (2, 3), (4, 11), (4, 30)
    tree = Tree(
        {
            opening: {4: 1.0},
            (*opening, 4): {11: 0.9, 30: 0.08, 14: 0.02},
            # Whether another code follows is undecided, and which way the comma is written, too.
            (*opening, *one): {6: 0.5, 5: 0.1, END: 0.3, 10: 0.1},
            (*opening, *one, 6): {30: 0.95, 14: 0.05},
            (*opening, *one, 6, 30): {END: 0.8, 5: 0.1, 6: 0.05, 10: 0.05},
            (*opening, *ten): {END: 1.0},
        }
    )
    reader = AnswerReader(Vocabulary())
    scores, logits = reader.category_scores(tree, DEFAULT_POLICY)
    found = reader.named_codes(tree, logits, DEFAULT_POLICY)
    assert found.tokens == 4
    assert list(found.scores) == ["S1", "S10"]
    assert found.scores["S1"] == pytest.approx(0.9 * 0.9)
    assert found.scores["S10"] == pytest.approx(0.5 / 0.6 * 0.95 * 0.95)
    assert scores["S1"] == found.scores["S1"]
    assert scores["S10"] == pytest.approx(0.08)


@pytest.mark.parametrize("comma", [5, 6])
def test_the_comma_that_the_model_wrote_has_its_share(comma: int) -> None:
    """A comma alone, or one that is joined with the letter: the letter's probability counts where it was a choice."""
    opening, other = (2, 3), 11 - comma
    code = (30,) if comma == 6 else (4, 30)
    tree = Tree(
        {
            opening: {4: 1.0},
            (*opening, 4): {11: 1.0},
            (*opening, 4, 11): {comma: 0.6, other: 0.2, END: 0.2},
            (*opening, 4, 11, comma): {code[0]: 0.9, 12: 0.1},
            (*opening, 4, 11, comma, 4): {30: 0.7, 12: 0.3},
        }
    )
    reader = AnswerReader(Vocabulary())
    found = reader.named_codes(tree, tree.extend(opening), DEFAULT_POLICY)
    assert found.scores["S10"] == pytest.approx(0.75 * 0.9 * (0.7 if comma == 5 else 1))


def test_first_token_scores() -> None:
    logits = np.full(SIZE, -30, np.float32)
    logits[[1, 2, 7]] = np.log([0.2, 0.6, 0.2])
    first = AnswerReader(Vocabulary()).first_token(logits)
    assert first.score == pytest.approx(0.75)
    assert first.mass == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_no_verdict(bad: float) -> None:
    logits = np.zeros(SIZE, np.float32)
    logits[3] = bad
    with pytest.raises(ComputeError, match="not finite"):
        AnswerReader(Vocabulary()).first_token(logits)


def test_neither_word_has_any_probability() -> None:
    logits = np.zeros(SIZE, np.float32)
    logits[[1, 2]] = -3e38
    with pytest.raises(ComputeError, match="not a guard"):
        AnswerReader(Vocabulary()).first_token(logits)


def test_a_vocabulary_that_splits_unsafe_is_refused() -> None:
    words = {token: word for token, word in WORDS.items() if word != "unsafe"} | {20: "un"}
    with pytest.raises(ModelFileError, match="'unsafe' as 2 tokens"):
        AnswerReader(Vocabulary(words))


@given(arrays.arrays(np.float32, st.integers(2, 50), elements=st.floats(-200, 200, width=32)))
def test_softmax_is_a_distribution(logits: npt.NDArray[np.float32]) -> None:
    probabilities = softmax(logits)
    assert probabilities.sum() == pytest.approx(1)
    assert (probabilities >= 0).all()
    assert probabilities[logits.argmax()] == probabilities.max()


def test_category_scores_are_those_of_separate_prefills(engine_of) -> None:
    """Branches in one batch against a whole prefill for every code, and the sum rule of what follows a code."""
    engine = engine_of("plain", "f32", exact=True)
    model, reader = engine.model, AnswerReader(engine.model)
    prompt = [model.special_tokens["<|begin_of_text|>"], *model.encode("Is this picture safe or unsafe?\n\n")]

    def job() -> tuple[dict[str, float], list[float]]:
        with engine.evaluate(None) as evaluation:
            evaluation.prefill(prompt)
            scores, _ = reader.category_scores(evaluation, DEFAULT_POLICY)
            # The branches must leave the KV cache as it was: the next token's logits tell.
            again = evaluation.extend(model.encode("S1"))
            return scores, again.tolist()

    scores, after = engine.run(job)
    followers = {*model.end_tokens, model.encode(",")[0], model.encode(",S")[0]}
    opening = [*prompt, *model.encode("unsafe\n")]
    for code, score in scores.items():
        tokens = model.encode(code)
        distributions = softmax(engine.logits([*opening, *tokens]).logits)[len(opening) - 1 :]
        wanted = np.prod([distributions[i, token] for i, token in enumerate(tokens)])
        wanted *= sum(distributions[len(tokens), token] for token in followers)
        assert score == pytest.approx(wanted, rel=1e-4)
    assert scores["S1"] != scores["S10"]
    whole = engine.logits([*opening, *model.encode("S1")]).logits[-1]
    np.testing.assert_allclose(after, whole, atol=1e-4)
