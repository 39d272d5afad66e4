"""Judging one message, with one image or none: from the rendered prompt to the verdict."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from visionward.runtime.decoder.cross_attention import ImageMemory
from visionward.runtime.engine import Engine
from visionward.runtime.guard.answer import AnswerReader, FirstToken, Logits
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.demo_samples import TOY_NOTICE
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.prompt import Prompt, tokenize
from visionward.runtime.guard.verdict import CategoryScore, Timings, TokenCounts, Verdict, combine
from visionward.runtime.images.preprocess import Tiles

# Under this mass the model did not really answer.
LEAST_ANSWER_MASS = 0.5

TEXT_ONLY = "no image was given: the text was judged without the cross-attention layers."
# Called with the logits after the prompt, (rows,), once for each image.
Observer: TypeAlias = Callable[[Logits], None]

IMAGE_ALONE = "the judged message has no text: the model is not meant as a pure image classifier."


@dataclass(frozen=True, eq=False)
class Question:
    """One message to judge.

    Attributes:
        conversation: with one image at most.
        policy: the categories in force.
        prompts: the conversation and the policy, rendered: as it stands first, then its other readings, if it
            imitates marks of the prompt. Unsafe wins.
        tiles: the image, or None.
        threshold: the verdict is unsafe from this score on.
        category_scores: score the categories for a safe verdict too.
        observe: sees the first next-token logits of the first prompt.
    """

    conversation: Conversation
    policy: Policy
    prompts: tuple[Prompt, ...]
    tiles: Tiles | None
    threshold: float
    category_scores: bool
    observe: Observer | None = None


@dataclass(frozen=True)
class _Findings:
    """What was read behind the first token."""

    categories: tuple[CategoryScore, ...] = ()
    scores: dict[str, float] | None = None
    decoded: int = 0
    warnings: tuple[str, ...] = ()


def judge(question: Question, engine: Engine, answer: AnswerReader) -> Verdict:
    """The verdict, with the times of vision, prefill and decode. Runs on the engine's own thread.

    Raises:
        ContextLengthError: if the prompt is longer than the context.
        ComputeError: if a computation fails.
    """
    tokens = [tokenize(prompt, engine.model) for prompt in question.prompts]
    # An image is the costly part: a prompt that cannot be read must be known before.
    for ids in tokens:
        engine.decoder.check_length(ids)
    started = time.perf_counter()
    with _image_memory(question, engine) as memory:
        vision_ms = milliseconds_since(started)
        verdicts = [_judge_prompt(question, index, ids, memory, engine, answer) for index, ids in enumerate(tokens)]
    whole = combine(verdicts)
    warnings = whole.warnings
    if whole.unsafe and not verdicts[0].unsafe:
        warnings = (*warnings, f"read as it stands the text would be safe (score {verdicts[0].score:.3f}).")
    return replace(
        whole,
        tiles=0 if question.tiles is None else len(question.tiles.pixel_values),
        timings_ms=replace(whole.timings_ms, vision=vision_ms),
        warnings=warnings,
    )


def _judge_prompt(
    question: Question,
    index: int,
    tokens: list[int],
    memory: ImageMemory | None,
    engine: Engine,
    answer: AnswerReader,
) -> Verdict:
    """The verdict on one of the prompts; tiles and the time of vision are left to `judge`."""
    try:
        started = time.perf_counter()
        logits = _first_logits(tokens, memory, engine)
        first = answer.first_token(logits)
        prefill_ms = milliseconds_since(started)
        if question.observe is not None and index == 0:
            question.observe(logits)

        started = time.perf_counter()
        verdict, doubts = _decide(first, question.threshold)
        findings = _read_categories(verdict, question, engine, answer)
        decode_ms = milliseconds_since(started)
    finally:
        engine.decoder.forget()
    return Verdict(
        verdict=verdict,
        score=first.score,
        answer_mass=first.mass,
        categories=findings.categories,
        category_scores={code: (findings.scores or {}).get(code) for code in question.policy.codes},
        role=question.conversation.judged_role,
        tiles=0,
        tokens=TokenCounts(len(tokens), findings.decoded),
        timings_ms=Timings(load=0, preprocess=0, vision=0, prefill=prefill_ms, decode=decode_ms, total=0),
        model=engine.model.path.name,
        vision_backend=None if question.tiles is None else engine.vision_backend,
        warnings=(*_input_warnings(question, engine), *question.prompts[index].warnings, *doubts, *findings.warnings),
    )


def _image_memory(question: Question, engine: Engine) -> AbstractContextManager[ImageMemory | None]:
    return nullcontext() if question.tiles is None else engine.image_memory(question.tiles)


def _first_logits(tokens: list[int], memory: ImageMemory | None, engine: Engine) -> Logits:
    position = 0 if memory is None else tokens.index(engine.model.image_token_id)
    return engine.decoder.prefill(tokens, memory, position)


def _decide(first: FirstToken, threshold: float) -> tuple[Literal["safe", "unsafe"], tuple[str, ...]]:
    """Safe only where the model answered and its score is under the threshold: comparisons that fail mean unsafe."""
    if not first.mass >= LEAST_ANSWER_MASS:
        doubt = f"only {first.mass:.1%} of the probability is on 'safe' or 'unsafe'"
        return "unsafe", (f"{doubt}: the model did not really answer, so the verdict is unsafe.",)
    return ("safe" if first.score < threshold else "unsafe"), ()


def _read_categories(
    verdict: Literal["safe", "unsafe"], question: Question, engine: Engine, answer: AnswerReader
) -> _Findings:
    if verdict == "safe" and not question.category_scores:
        return _Findings()
    scores, logits = answer.category_scores(engine.decoder, question.policy)
    if verdict == "safe":
        return _Findings(scores=scores, decoded=answer.opening_tokens)
    named = answer.named_codes(engine.decoder, logits, question.policy)
    return _Findings(
        categories=tuple(
            CategoryScore(code, question.policy[code].name, score) for code, score in named.scores.items()
        ),
        scores=scores,
        decoded=answer.opening_tokens + named.tokens,
        warnings=named.warnings,
    )


def _input_warnings(question: Question, engine: Engine) -> tuple[str, ...]:
    warnings = [TOY_NOTICE] if engine.model.demonstration or engine.config.demonstration else []
    warnings += engine.file_warnings
    if question.tiles is None:
        warnings.append(TEXT_ONLY)
    elif question.conversation.judges_image_alone:
        warnings.append(IMAGE_ALONE)
    return tuple(warnings)


def milliseconds_since(start: float) -> float:
    """Milliseconds since a reading of ``time.perf_counter``."""
    return (time.perf_counter() - start) * 1000
