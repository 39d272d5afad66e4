"""The verdict of a classification, and combining the verdicts on several pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NoReturn

from visionward.runtime.devices import Devices
from visionward.runtime.images.frame_count import FrameCount


@dataclass(frozen=True)
class CategoryScore:
    """A category that the model named.

    Attributes:
        code: its code, such as ``S1``.
        name: its name in the policy.
        score: the probability of the code in its place: after ``unsafe`` and a line break for the first category, and
            after the earlier ones and a comma for a further one. It includes that the code ends there. For the first
            category it equals its ``Verdict.category_scores``, up to rounding in another batch.
    """

    code: str
    name: str
    score: float


@dataclass(frozen=True)
class TokenCounts:
    """Numbers of tokens: of the prompt, and of the answer as far as it was decoded (0 for a safe verdict)."""

    prompt: int
    decoded: int


@dataclass(frozen=True)
class FirstLook:
    """What a look with one tile said, if a look with all tiles followed.

    Attributes:
        score: P(unsafe) / (P(safe) + P(unsafe)).
        answer_mass: P(safe) + P(unsafe).
        tiles: number of tiles.
    """

    score: float
    answer_mass: float
    tiles: int


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
        score: P(unsafe) / (P(safe) + P(unsafe)) of the first token of the answer.
        answer_mass: P(safe) + P(unsafe). If it is below 0.5 (``names.MIN_ANSWER_MASS``), the verdict is unsafe, with a
            warning.
        categories: the categories that the model named, in its order.
        category_scores: for each category of the policy the probability that its code is the first after ``unsafe``
            and a line break, including that the code ends there. None if not computed, which is the default for a safe
            verdict.
        role: ``User`` if a prompt was classified, ``Agent`` if a response was.
        tiles: number of tiles of all judged pictures; 0 without an image.
        preferred_tiles: number of tiles without ``max_tiles``; more than ``tiles`` if it limited them.
        tokens: numbers of tokens in prompt and answer.
        timings_ms: the time of each stage.
        model: file name of the text GGUF.
        vision_backend: what encoded the image: ``ggml``, ``onnx`` or ``openvino``; None without an image.
        devices: what computed it: of the decoder, the vision tower and the cross-attention layers, with the layers on
            GPUs and the memory taken there.
        frames: how many of the images' frames were judged; None without an image.
        first_look: what one tile said, if ``max_tiles="auto"`` judged again with all tiles; else None. Tokens and times
            include it.
        warnings: what a reader of the verdict should know, one sentence each.
    """

    verdict: Literal["safe", "unsafe"]
    score: float
    answer_mass: float
    categories: tuple[CategoryScore, ...]
    category_scores: dict[str, float | None]
    role: Literal["User", "Agent"]
    tiles: int
    preferred_tiles: int
    tokens: TokenCounts
    timings_ms: Timings
    model: str
    vision_backend: str | None
    devices: Devices
    frames: FrameCount | None = None
    first_look: FirstLook | None = None
    warnings: tuple[str, ...] = ()

    @property
    def unsafe(self) -> bool:
        """Whether the verdict is unsafe."""
        return self.verdict == "unsafe"

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a verdict has no truth value, because 'if verdict' could mean safe or unsafe: use verdict.unsafe"
        )

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values: the object that ``visionward classify --json`` prints."""
        return asdict(self)


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Combine the verdicts on the pictures, images or readings of a conversation. Unsafe wins.

    Score and answer mass are those of the decisive verdict: the unsafe one with the highest score, or else the safe one
    with the highest score. Each category has its highest score. Tiles, tokens, frames and times are added up.
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
        preferred_tiles=sum(verdict.preferred_tiles for verdict in verdicts),
        tokens=TokenCounts(
            sum(verdict.tokens.prompt for verdict in verdicts), sum(verdict.tokens.decoded for verdict in verdicts)
        ),
        timings_ms=Timings(**(summed | {"load": times[0]["load"]})),
        frames=FrameCount(sum(one.judged for one in frames), sum(one.total for one in frames)) if frames else None,
        warnings=tuple(dict.fromkeys(warning for verdict in verdicts for warning in verdict.warnings)),
    )
