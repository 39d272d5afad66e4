"""The verdict: what a classification says, and how the verdicts over several images become one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from visionward.runtime.images.frame_count import FrameCount


@dataclass(frozen=True)
class CategoryScore:
    """A category that the model named.

    Attributes:
        code: ``S1`` and so on.
        name: its name in the policy.
        score: the probability with which the model named the code in its place: after ``unsafe`` and a line break for
            the first, after what it had named before and a comma for a further one, including that the code ends there.
            The first one's is its ``Verdict.category_scores``, up to the rounding of another batch.
    """

    code: str
    name: str
    score: float


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the prompt, and tokens of the answer that the decoder read (none for a safe verdict)."""

    prompt: int
    decoded: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each stage. ``load`` is the guard's loading and not part of ``total``."""

    load: float
    preprocess: float
    vision: float
    prefill: float
    decode: float
    total: float


@dataclass(frozen=True)
class Verdict:
    """The result of a classification.

    Attributes:
        verdict: ``safe`` or ``unsafe``.
        score: p(unsafe) / (p(safe) + p(unsafe)) of the first answer token.
        answer_mass: p(safe) + p(unsafe); under 0.5 the model did not really answer, and the verdict is unsafe.
        categories: the codes that the model named, in its order.
        category_scores: every category in force to the probability that it is the first one named after ``unsafe`` and
            a line break, including that the code ends there; to None where it was not computed, as for a safe verdict
            unless it was asked for.
        role: ``User`` for prompt classification, ``Agent`` for response classification.
        tiles: tiles of all pictures that were looked at; 0 without an image.
        tokens: of prompt and answer.
        timings_ms: of each stage.
        model: file name of the text GGUF.
        vision_backend: the engine that encoded the image, ``ggml``, ``onnx`` or ``openvino``; None without an image.
        frames: how many of the images' frames were judged; None without an image.
        warnings: whatever a reader of the verdict should know.
    """

    verdict: Literal["safe", "unsafe"]
    score: float
    answer_mass: float
    categories: tuple[CategoryScore, ...]
    category_scores: dict[str, float | None]
    role: Literal["User", "Agent"]
    tiles: int
    tokens: TokenCounts
    timings_ms: Timings
    model: str
    vision_backend: str | None
    frames: FrameCount | None = None
    warnings: tuple[str, ...] = ()

    @property
    def unsafe(self) -> bool:
        """Whether the verdict is unsafe."""
        return self.verdict == "unsafe"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values, in the form that ``visionward classify --json`` prints."""
        return asdict(self)


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of those over each picture or image of a conversation: unsafe wins.

    Score and answer mass are those of the verdict that decided: the unsafe one with the highest score, else the safe
    one with the highest. Categories and their scores are the highest of all; tiles, tokens, frames and times are
    added up.
    """
    if len(verdicts) == 1:
        return verdicts[0]
    decisive = max(verdicts, key=lambda verdict: (verdict.unsafe, verdict.score))
    named: dict[str, CategoryScore] = {}
    scores: dict[str, float | None] = {}
    for verdict in verdicts:
        for category in verdict.categories:
            if category.code not in named or category.score > named[category.code].score:
                named[category.code] = category
        for code, score in verdict.category_scores.items():
            known = [value for value in (score, scores.get(code)) if value is not None]
            scores[code] = max(known, default=None)
    times = [asdict(verdict.timings_ms) for verdict in verdicts]
    summed = {stage: sum(time[stage] for time in times) for stage in times[0]}
    frames = [verdict.frames for verdict in verdicts if verdict.frames is not None]
    return replace(
        decisive,
        categories=tuple(named.values()),
        category_scores=scores,
        tiles=sum(verdict.tiles for verdict in verdicts),
        tokens=TokenCounts(
            sum(verdict.tokens.prompt for verdict in verdicts), sum(verdict.tokens.decoded for verdict in verdicts)
        ),
        timings_ms=Timings(**(summed | {"load": times[0]["load"]})),
        frames=FrameCount(sum(one.judged for one in frames), sum(one.total for one in frames)) if frames else None,
        warnings=tuple(dict.fromkeys(warning for verdict in verdicts for warning in verdict.warnings)),
    )
