"""Judging one message, with or without an image: from the rendered prompt to the verdict."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from visionward.names import MIN_ANSWER_MASS
from visionward.progress import OnProgress
from visionward.quantities import percent_text
from visionward.runtime.engine import Engine
from visionward.runtime.evaluation import Evaluation, milliseconds_since
from visionward.runtime.guard.answer import AnswerReader, FirstToken, Logits
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import Policy
from visionward.runtime.guard.prompt import Prompt, tokenize
from visionward.runtime.guard.verdict import CategoryScore, Timings, TokenCounts, Verdict, combine
from visionward.runtime.images.preprocess import Tiles

TEXT_ONLY = "no image was given: the text was judged without the cross-attention layers."
SAFE_AS_WRITTEN = "as written, the text would be safe"  # how the warning begins
IMAGE_ALONE = "the judged message has no text: the model is not meant to judge images alone."

# Called with the logits after the prompt, (vocabulary size,), once per picture.
Observer: TypeAlias = Callable[[Logits], None]


@dataclass(frozen=True, eq=False)
class Question:
    """One message to judge.

    Attributes:
        conversation: has at most one image.
        policy: the categories.
        prompts: the rendered conversation as written and, if it imitates the prompt's markers, its other readings.
            Unsafe wins.
        tiles: the image, or None.
        threshold: the verdict is unsafe if the score is at least this.
        category_scores: whether to score the categories for a safe verdict too.
        started: reading of ``time.perf_counter`` from which the total time counts.
        preprocess_ms: milliseconds that rendering the prompts and cutting the image into tiles took.
        load_ms: milliseconds that loading the guard took.
        observe: called with the logits after the first prompt.
        on_progress: called for each layer of the tower and each ubatch of a prompt.
    """

    conversation: Conversation
    policy: Policy
    prompts: tuple[Prompt, ...]
    tiles: Tiles | None
    threshold: float
    category_scores: bool
    started: float
    preprocess_ms: float
    load_ms: float
    observe: Observer | None = None
    on_progress: OnProgress | None = None


@dataclass(frozen=True)
class _Findings:
    """What was read after the first token of the answer."""

    categories: tuple[CategoryScore, ...] = ()
    scores: dict[str, float] | None = None
    decoded: int = 0
    warnings: tuple[str, ...] = ()


def judge(question: Question, engine: Engine, answer: AnswerReader) -> Verdict:
    """The verdict on a question. Runs on the engine's own thread.

    Raises:
        ContextLengthError: a prompt is longer than the context.
        ComputeError: a computation failed.
    """
    tokens = [tokenize(prompt, engine.model) for prompt in question.prompts]
    # Checked before the image is encoded, which is expensive.
    for ids in tokens:
        engine.check_length(ids)
    with engine.evaluate(question.tiles, on_progress=question.on_progress) as evaluation:
        verdicts = [_judge_prompt(question, index, ids, evaluation, engine, answer) for index, ids in enumerate(tokens)]
    whole = combine(verdicts)
    if whole.unsafe and not verdicts[0].unsafe:
        note = f"{SAFE_AS_WRITTEN}: P(unsafe) {verdicts[0].score:.3f}."
        return replace(whole, warnings=(*whole.warnings, note))
    return whole


def _judge_prompt(
    question: Question,
    index: int,
    tokens: list[int],
    evaluation: Evaluation,
    engine: Engine,
    answer: AnswerReader,
) -> Verdict:
    """The verdict on one prompt. That on the first prompt includes the image's tiles and all times before it."""
    is_first = index == 0
    tiles = question.tiles if is_first else None
    started = time.perf_counter()
    logits = evaluation.prefill(tokens)
    first = answer.first_token(logits)
    prefill_ms = milliseconds_since(started)
    if question.observe is not None and is_first:
        question.observe(logits)

    answered = time.perf_counter()
    verdict, doubts = _decide(first, question.threshold)
    findings = _read_categories(verdict, question, evaluation, answer)
    timings = Timings(
        load=question.load_ms,
        preprocess=question.preprocess_ms if is_first else 0.0,
        vision=evaluation.vision_ms if is_first else 0.0,
        prefill=prefill_ms,
        decode=milliseconds_since(answered),
        total=milliseconds_since(question.started if is_first else started),
    )
    return Verdict(
        verdict=verdict,
        score=first.score,
        answer_mass=first.mass,
        categories=findings.categories,
        category_scores={code: (findings.scores or {}).get(code) for code in question.policy.codes},
        role=question.conversation.judged_role,
        tiles=len(tiles.pixel_values) if tiles is not None else 0,
        preferred_tiles=tiles.preferred_tiles if tiles is not None else 0,
        tokens=TokenCounts(len(tokens), findings.decoded),
        timings_ms=timings,
        model=engine.model.path.name,
        vision_backend=None if question.tiles is None else engine.vision_backend,
        devices=engine.devices if question.tiles is not None else replace(engine.devices, vision=None, cross=None),
        warnings=(*_input_warnings(question, engine), *question.prompts[index].warnings, *doubts, *findings.warnings),
    )


def _decide(first: FirstToken, threshold: float) -> tuple[Literal["safe", "unsafe"], tuple[str, ...]]:
    """Safe only if the model answered and the score is below the threshold. NaN is unsafe."""
    if not first.mass >= MIN_ANSWER_MASS:
        return "unsafe", (f"only {percent_text(first.mass)} of the probability is on safe/unsafe; treated as unsafe.",)
    return ("safe" if first.score < threshold else "unsafe"), ()


def _read_categories(
    verdict: Literal["safe", "unsafe"], question: Question, evaluation: Evaluation, answer: AnswerReader
) -> _Findings:
    if verdict == "safe" and not question.category_scores:
        return _Findings()
    scores, logits = answer.category_scores(evaluation, question.policy)
    if verdict == "safe":
        return _Findings(scores=scores, decoded=answer.opening_tokens)
    named = answer.named_codes(evaluation, logits, question.policy)
    return _Findings(
        categories=tuple(
            CategoryScore(code, question.policy[code].name, score) for code, score in named.scores.items()
        ),
        scores=scores,
        decoded=answer.opening_tokens + named.tokens,
        warnings=named.warnings,
    )


def _input_warnings(question: Question, engine: Engine) -> tuple[str, ...]:
    warnings = [*engine.warnings]
    if question.tiles is None:
        warnings.append(TEXT_ONLY)
    elif question.conversation.judges_image_alone:
        warnings.append(IMAGE_ALONE)
    return tuple(warnings)
