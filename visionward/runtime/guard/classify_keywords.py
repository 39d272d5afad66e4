"""The keyword arguments of ``Guard.classify``, for functions that pass them on."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from visionward.names import ImitationTreatment, SystemTreatment
from visionward.progress import OnProgress
from visionward.runtime.guard.policy import Policy
from visionward.runtime.images.images import ImageSource

if TYPE_CHECKING:
    from visionward.runtime.guard.judgement import Observer


class PolicyKeywords(TypedDict, total=False):
    """How it is judged. ``Guard.classify`` describes them."""

    policy: Policy | Mapping[str, Any] | None
    exclude: Iterable[str]
    threshold: float
    category_scores: bool
    frames: int
    imitation: ImitationTreatment
    allow_files: bool
    merge_turns: bool
    system: SystemTreatment


class JudgeKeywords(PolicyKeywords, total=False):
    """The same, and what is judged."""

    image: ImageSource | None
    prompt: str | None
    response: str | None


class ClassifyKeywords(JudgeKeywords, total=False):
    """The same, and who is told meanwhile."""

    observe: "Observer | None"
    on_progress: OnProgress | None
