"""The responses of ``POST /v1/chat/completions``: a verdict in the words of a hosted Llama Guard."""

import json
import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from visionward.runtime.guard.verdict import Verdict
from visionward.serve.chat_request import ChatRequest

# OpenAI's API gives this for a token whose probability is as good as zero.
LOGPROB_OF_ZERO = -9999.0


@dataclass(frozen=True)
class Answer:
    """The text of an answer.

    Attributes:
        pieces: the verdict's word, and the line of codes if there is one; both may be cut off by the request.
        tokens: in Llama 3's vocabulary: one for the word, one for the line break, two for each code with its comma.
        finish_reason: ``stop``, or ``length`` if the answer had more tokens than were asked for.
    """

    pieces: tuple[str, ...]
    tokens: int
    finish_reason: str

    @classmethod
    def of(cls, verdict: Verdict, max_tokens: int | None = None, stop: tuple[str, ...] = ()) -> "Answer":
        """The answer that says a verdict.

        An answer with more than ``max_tokens`` tokens is cut after its first one, which is the verdict's word. What
        ``stop`` cuts off can never make ``safe`` out of ``unsafe``, because it leaves a beginning.
        """
        codes = [category.code for category in verdict.categories]
        pieces: tuple[str, ...] = (verdict.verdict,)
        if codes and verdict.unsafe:
            pieces = (*pieces, "\n" + ",".join(codes))
        tokens = 1 if len(pieces) == 1 else 2 + 2 * len(codes)
        finish_reason = "stop"
        if max_tokens is not None and tokens > max_tokens:
            pieces, tokens, finish_reason = pieces[:1], 1, "length"
        text = "".join(pieces)
        found = [position for position in map(text.find, stop) if position >= 0]
        if found:
            pieces, finish_reason = _cut(pieces, min(found)), "stop"
            tokens = tokens if len(pieces) > 1 else len(pieces)
        return cls(pieces, tokens, finish_reason)

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)


def _cut(pieces: tuple[str, ...], length: int) -> tuple[str, ...]:
    first, rest = pieces[0][:length], "".join(pieces[1:])[: max(0, length - len(pieces[0]))]
    return tuple(piece for piece in (first, rest) if piece)


@dataclass(frozen=True)
class ChatResponse:
    """A verdict as the answer to a chat request.

    Attributes:
        request: what was asked.
        verdict: the guard's.
        queue_ms: milliseconds that the request waited for others.
        id: of the completion.
        created: seconds since 1970.
    """

    request: ChatRequest
    verdict: Verdict
    queue_ms: float = 0.0
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def answer(self) -> Answer:
        """The text."""
        return Answer.of(self.verdict, self.request.max_tokens, self.request.stop)

    def to_dict(self) -> dict[str, Any]:
        """The response as one object of the type ``chat.completion``."""
        answer = self.answer
        choices: list[dict[str, Any]] = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []},
                "logprobs": self._logprobs(answer.text),
                "finish_reason": answer.finish_reason,
            }
            for index in range(self.request.n)
        ]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": self._usage(),
            "visionward": verdict_field(self.verdict, self.queue_ms),
        }

    def events(self) -> Iterator[bytes]:
        """The response as server-sent events of the type ``chat.completion.chunk``."""
        answer = self.answer
        usage = {"usage": None} if self.request.include_usage else {}
        for index in range(self.request.n):
            yield self._event([_delta(index, {"role": "assistant", "content": "", "refusal": None})], usage)
            for number, piece in enumerate(answer.pieces):
                logprobs = self._logprobs(answer.text) if number == 0 else None
                yield self._event([_delta(index, {"content": piece}, logprobs)], usage)
            last = usage | {"visionward": verdict_field(self.verdict, self.queue_ms)}
            yield self._event([_delta(index, {}, finish_reason=answer.finish_reason)], last)
        if self.request.include_usage:
            yield self._event([], {"usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": None,
            "service_tier": None,
        }

    def _event(self, choices: list[dict[str, Any]], further: dict[str, Any]) -> bytes:
        chunk = {**self._head("chat.completion.chunk"), "choices": choices, **further}
        return f"data: {json.dumps(chunk, allow_nan=False)}\n\n".encode()

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.verdict.tokens.prompt, self.answer.tokens * self.request.n
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _logprobs(self, text: str) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        content = [first_token(self.verdict, self.request.top_logprobs)] if text else []
        return {"content": content, "refusal": None}


def _delta(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def first_token(verdict: Verdict, alternatives: int) -> dict[str, Any]:
    """The log-probabilities of the answer's first token, which decides.

    The verdict has the probabilities of ``safe`` and ``unsafe`` as their sum (the answer mass) and the share of
    ``unsafe`` (the score). No other token has a meaning in this place, and none is listed.

    Args:
        verdict: the guard's.
        alternatives: the most entries of ``top_logprobs``, of which there are two.
    """
    probabilities = {
        "unsafe": verdict.score * verdict.answer_mass,
        "safe": (1 - verdict.score) * verdict.answer_mass,
    }
    ranked = sorted(probabilities, key=lambda word: probabilities[word], reverse=True)
    top = [_token(word, probabilities[word]) for word in ranked[:alternatives]]
    return {**_token(verdict.verdict, probabilities[verdict.verdict]), "top_logprobs": top}


def _token(text: str, probability: float) -> dict[str, Any]:
    logprob = math.log(probability) if probability > 0 else LOGPROB_OF_ZERO
    return {"token": text, "logprob": min(logprob, 0.0), "bytes": list(text.encode())}


def verdict_field(verdict: Verdict, queue_ms: float) -> dict[str, Any]:
    """The extra field ``visionward``: everything that the verdict has, as ``visionward classify --json`` prints it.

    Args:
        verdict: the guard's.
        queue_ms: milliseconds that the request waited for others; added to the timings.
    """
    found = verdict.to_dict()
    found["timings_ms"] = {**found["timings_ms"], "queue": queue_ms}
    return found
