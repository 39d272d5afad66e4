"""Reading the model's answer: the probabilities of safe, unsafe and each category, and the codes that it names.

The answer is ``safe``, or ``unsafe``, a line break and comma-separated category codes. The prompt ends where the answer
begins, so the first next-token distribution decides the verdict.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, ModelFileError
from visionward.runtime.guard.policy import Policy, is_code

Logits = npt.NDArray[np.float32]
SAFE, UNSAFE = "safe", "unsafe"
# A code with its comma is three tokens in Llama 3's vocabulary, and up to six if each digit is a token.
TOKENS_PER_CODE = 6
MAX_QUOTED_LENGTH = 40


class AnswerTokenizer(Protocol):
    """The vocabulary that `AnswerReader` needs."""

    def encode(self, text: str) -> list[int]:
        """The token ids of plain text."""

    def text_of(self, token: int) -> str:
        """The text of a token."""

    def ends_answer(self, token: int) -> bool:
        """Whether a token ends the answer."""

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends an answer."""


class AnswerDecoder(Protocol):
    """The decoder that `AnswerReader` needs."""

    def extend(self, tokens: Sequence[int]) -> Logits:
        """Decode tokens and return the logits after the last one."""

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[Logits]:
        """Decode continuations independently of each other and return the logits after each of their tokens."""


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Probabilities over the vocabulary, (..., vocabulary size), in float64.

    Raises:
        ComputeError: a logit is not finite, so that there is no verdict.
    """
    if not np.isfinite(logits).all():
        raise ComputeError("the model computed logits that are not finite: the file may be damaged")
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class FirstToken:
    """The first next-token distribution.

    Attributes:
        score: p(unsafe) / (p(safe) + p(unsafe)).
        mass: p(safe) + p(unsafe).
    """

    score: float
    mass: float


@dataclass(frozen=True)
class NamedCodes:
    """The codes that the model named after ``unsafe``.

    Attributes:
        scores: codes of the policy, in the model's order, to the probability of each in its place (``named_codes``).
        warnings: what was left out and why.
        tokens: number of decoded tokens.
    """

    scores: dict[str, float]
    warnings: tuple[str, ...]
    tokens: int


@dataclass
class _Part:
    """The text between two commas, and its probability given the text before it."""

    text: str
    probability: float


class AnswerReader:
    """Reads answers in one vocabulary.

    Raises:
        ModelFileError: ``safe`` and ``unsafe`` are not one token each, so that one distribution cannot decide.
    """

    def __init__(self, tokenizer: AnswerTokenizer) -> None:
        self._tokenizer = tokenizer
        self._safe = self._single(SAFE)
        self._unsafe = self._single(UNSAFE)
        self._opening = tokenizer.encode(f"{UNSAFE}\n")
        if self._opening[:1] != [self._unsafe]:
            raise ModelFileError(
                "the tokenizer encodes 'unsafe' differently before a line break: not a Llama 3 vocabulary"
            )
        # Llama 3's pre-tokenizer puts a comma and the letter after it into one word.
        self._commas = {tokenizer.encode(",")[0], tokenizer.encode(",S")[0]}
        self._after_code = self._commas | set(tokenizer.end_tokens)

    def _single(self, word: str) -> int:
        tokens = self._tokenizer.encode(word)
        if len(tokens) != 1:
            raise ModelFileError(
                f"the tokenizer encodes {word!r} as {len(tokens)} tokens, expected 1: not a Llama 3 vocabulary"
            )
        return tokens[0]

    @property
    def opening_tokens(self) -> int:
        """The number of tokens of ``unsafe`` and the line break."""
        return len(self._opening)

    def first_token(self, logits: Logits) -> FirstToken:
        """Score and answer mass from the logits after the prompt, (vocabulary size,).

        Raises:
            ComputeError: the logits are not finite, or both words have probability zero.
        """
        probabilities = softmax(logits)
        safe, unsafe = float(probabilities[self._safe]), float(probabilities[self._unsafe])
        if safe + unsafe <= 0:
            raise ComputeError("the model gives 'safe' and 'unsafe' probability zero: it is not a guard model")
        return FirstToken(unsafe / (safe + unsafe), safe + unsafe)

    def category_scores(self, decoder: AnswerDecoder, policy: Policy) -> tuple[dict[str, float], Logits]:
        """Decode ``unsafe`` and the line break, and score every code after them.

        A score is the product of the probabilities of the code's tokens and of what must follow a code (a comma or
        the end), so that S1 and S10 differ.

        Returns:
            The score of each code, and the logits after the line break, for ``named_codes``.
        """
        first = decoder.extend(self._opening)
        codes = {code: self._code_tokens(code) for code in policy.codes}
        scores = {}
        for (code, tokens), logits in zip(codes.items(), decoder.branch(list(codes.values())), strict=True):
            distributions = softmax(np.concatenate([first[None], logits]))
            steps = [distributions[i, token] for i, token in enumerate(tokens)]
            scores[code] = float(np.prod(steps) * _mass(distributions[-1], self._after_code))
        return scores, first

    def _code_tokens(self, code: str) -> list[int]:
        whole = self._tokenizer.encode(f"{UNSAFE}\n{code}")
        if whole[: len(self._opening)] != self._opening:
            raise ModelFileError(
                f"the tokenizer joins the code {code} with the line before it: not a Llama 3 vocabulary"
            )
        return whole[len(self._opening) :]

    def named_codes(self, decoder: AnswerDecoder, logits: Logits, policy: Policy) -> NamedCodes:
        """Decode greedily from the logits after the line break to the end of the answer.

        The score of a code is the probability that it is named in its place, given everything before it: the product
        of the probabilities of its tokens and of what must follow a code, as in ``category_scores``. After another
        code the comma is given too: the score does not include whether a further code follows at all. A token that
        joins the comma with the letter after it counts with its share of the probability of all comma tokens.
        """
        limit = TOKENS_PER_CODE * len(policy.codes)
        parts, count, ended = self._decode_parts(decoder, logits, limit)
        warnings: list[str] = []
        if not ended:
            warnings.append(
                f"the answer did not end within {limit} tokens; its last part {_quoted(parts.pop().text.strip())} was "
                "left out."
            )
        scores: dict[str, float] = {}
        for part in parts:
            name = part.text.strip()
            if name in policy:
                scores.setdefault(name, part.probability)
            elif is_code(name):
                warnings.append(f"the model named {name}, which is not in the policy in force; it was left out.")
            else:
                warnings.append(f"the model named {_quoted(name)}, which is not a category code; it was left out.")
        return NamedCodes(scores, tuple(dict.fromkeys(warnings)), count)

    def _decode_parts(self, decoder: AnswerDecoder, logits: Logits, limit: int) -> tuple[list[_Part], int, bool]:
        """The parts between commas, the number of tokens, and whether the answer ended within the limit."""
        parts = [_Part("", 1.0)]
        for count in range(limit):
            probabilities = softmax(logits)
            token = int(logits.argmax())
            if self._tokenizer.ends_answer(token):
                parts[-1].probability *= _mass(probabilities, self._after_code)
                return parts, count, True
            text, *further = self._tokenizer.text_of(token).split(",")
            parts[-1].text += text
            if further:
                parts[-1].probability *= _mass(probabilities, self._after_code | {token})
                share = float(probabilities[token]) / _mass(probabilities, self._commas | {token})
                parts += [_Part(text, share) for text in further]
            else:
                parts[-1].probability *= float(probabilities[token])
            if count + 1 < limit:
                logits = decoder.extend([token])
        return parts, limit, False


def _mass(probabilities: npt.NDArray[np.float64], tokens: Set[int]) -> float:
    return float(probabilities[sorted(tokens)].sum())


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTED_LENGTH else text[:MAX_QUOTED_LENGTH] + "...")
