"""Reading the model's answer: probabilities of safe and unsafe, of each category, and the codes that it names.

The answer is ``safe`` or ``unsafe``, a line break and comma-separated codes. The prompt ends where the answer begins,
so the first next-token distribution is the verdict.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, ModelFileError
from visionward.runtime.guard.policy import Policy

Logits = npt.NDArray[np.float32]
SAFE, UNSAFE = "safe", "unsafe"
# A code with its comma takes three tokens in Llama 3's vocabulary, and up to six where digits stand alone.
TOKENS_PER_CODE = 6
QUOTED_LENGTH = 40
_CODE = re.compile(r"S[1-9][0-9]*")


class AnswerTokenizer(Protocol):
    """What is needed of a vocabulary to read answers."""

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""

    def text_of(self, token: int) -> str:
        """The text of a token."""

    def ends_answer(self, token: int) -> bool:
        """Whether a token ends the answer."""

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends an answer."""


class AnswerDecoder(Protocol):
    """What is needed of a decoder to read answers."""

    def extend(self, tokens: Sequence[int]) -> Logits:
        """Read tokens; the logits of the last one."""

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[Logits]:
        """Read continuations, each as if it were alone; the logits after each of their tokens."""


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Probabilities over the head's real rows, (..., rows), in float64.

    Raises:
        ComputeError: if a logit is not finite: such numbers are no verdict.
    """
    if not np.isfinite(logits).all():
        raise ComputeError("the model gave logits that are not finite: the file may be damaged.")
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
        scores: those of the policy, in the model's order, to the probability of each in its place (``named_codes``).
        warnings: what was left out, and why.
        tokens: tokens that were decoded.
    """

    scores: dict[str, float]
    warnings: tuple[str, ...]
    tokens: int


@dataclass
class _Part:
    """What the model wrote between two commas, and how probable that was behind what it had written before."""

    text: str
    probability: float


class AnswerReader:
    """Reads answers in one vocabulary.

    Raises:
        ModelFileError: if ``safe`` and ``unsafe`` are not one token each, so that a distribution could not be read.
    """

    def __init__(self, tokenizer: AnswerTokenizer) -> None:
        self._tokenizer = tokenizer
        self._safe = self._single(SAFE)
        self._unsafe = self._single(UNSAFE)
        self._opening = tokenizer.encode(f"{UNSAFE}\n")
        if self._opening[:1] != [self._unsafe]:
            raise ModelFileError(
                "the tokenizer writes 'unsafe' otherwise before a line break: not a Llama 3 vocabulary."
            )
        # Llama 3's regular expression puts a comma and the letter behind it into one word.
        self._commas = {tokenizer.encode(",")[0], tokenizer.encode(",S")[0]}
        self._after_code = self._commas | set(tokenizer.end_tokens)

    def _single(self, word: str) -> int:
        tokens = self._tokenizer.encode(word)
        if len(tokens) != 1:
            raise ModelFileError(
                f"the tokenizer writes {word!r} in {len(tokens)} tokens: no verdict can be read from it."
            )
        return tokens[0]

    @property
    def opening_tokens(self) -> int:
        """Tokens of ``unsafe`` and the line break."""
        return len(self._opening)

    def first_token(self, logits: Logits) -> FirstToken:
        """Score and answer mass from the logits after the prompt, (rows,).

        Raises:
            ComputeError: if they are not finite, or both words have probability zero.
        """
        probabilities = softmax(logits)
        safe, unsafe = float(probabilities[self._safe]), float(probabilities[self._unsafe])
        if safe + unsafe <= 0:
            raise ComputeError("the model gives neither 'safe' nor 'unsafe' any probability: it is no guard.")
        return FirstToken(unsafe / (safe + unsafe), safe + unsafe)

    def category_scores(self, decoder: AnswerDecoder, policy: Policy) -> tuple[dict[str, float], Logits]:
        """Read ``unsafe`` and the line break, and score every code behind them.

        A score is the product of the probabilities of the code's tokens and of what must follow a code (a comma or
        the end), so that S1 and S10 differ.

        Returns:
            Code to score, and the logits after the line break, for ``named_codes``.
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
                f"the tokenizer joins the code {code} with the line before it: not a Llama 3 vocabulary."
            )
        return whole[len(self._opening) :]

    def named_codes(self, decoder: AnswerDecoder, logits: Logits, policy: Policy) -> NamedCodes:
        """Decode greedily from the logits after the line break to the end of the answer.

        A code's score is the probability that it is named in its place, given everything before it: the product of
        the probabilities of its tokens and of what must follow a code, as in ``category_scores``. Behind another code
        the comma is given too: whether a further code follows at all is no part of the score. A token that joins the
        comma with the letter behind it counts with its share of all commas.
        """
        limit = TOKENS_PER_CODE * len(policy.codes)
        parts, count, ended = self._decode_parts(decoder, logits, limit)
        warnings: list[str] = []
        if not ended:
            warnings.append(
                f"the answer did not end after {limit} tokens; its last part {_quoted(parts.pop().text.strip())} was "
                "left out."
            )
        scores: dict[str, float] = {}
        for part in parts:
            name = part.text.strip()
            if name in policy:
                scores.setdefault(name, part.probability)
            elif _CODE.fullmatch(name):
                warnings.append(f"the model named {name}, which is not in the policy in force; it was left out.")
            else:
                warnings.append(f"the model named {_quoted(name)}, which is no category code; it was left out.")
        return NamedCodes(scores, tuple(dict.fromkeys(warnings)), count)

    def _decode_parts(self, decoder: AnswerDecoder, logits: Logits, limit: int) -> tuple[list[_Part], int, bool]:
        """What stands between the commas, the number of tokens, and whether the answer ended within the limit."""
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
    return repr(text if len(text) <= QUOTED_LENGTH else text[:QUOTED_LENGTH] + "...")
