"""A guard without a model: verdicts come from a queue, and what it was asked is recorded."""

from collections.abc import Mapping
from typing import Any

from visionward.progress import Progress
from visionward.runtime.devices import Devices
from visionward.runtime.guard.verdict import CategoryScore, Timings, TokenCounts, Verdict

SAFE = Verdict(
    verdict="safe",
    score=0.02,
    answer_mass=0.99,
    categories=(),
    category_scores={"S1": None, "S9": None},
    role="User",
    tiles=1,
    preferred_tiles=1,
    tokens=TokenCounts(200, 0),
    timings_ms=Timings(load=10, preprocess=1, vision=1500, prefill=20, decode=0, total=1521),
    model="guard-text-F16.gguf",
    vision_backend="ggml",
    devices=Devices("CPU", "CPU", "CPU", 0, 33),
)
UNSAFE = Verdict(
    verdict="unsafe",
    score=0.93,
    answer_mass=0.98,
    categories=(CategoryScore("S9", "Indiscriminate Weapons", 0.8), CategoryScore("S1", "Violent Crimes", 0.3)),
    category_scores={"S1": 0.3, "S9": 0.8},
    role="Agent",
    tiles=0,
    preferred_tiles=0,
    tokens=TokenCounts(210, 6),
    timings_ms=Timings(load=10, preprocess=0, vision=0, prefill=20, decode=30, total=50),
    model="guard-text-F16.gguf",
    vision_backend=None,
    devices=Devices("CPU", None, None, 0, 33),
    warnings=("no image was given.",),
)


class FakeGuard:
    """Stands in for the class ``Guard`` and for its instances.

    Attributes:
        loads: arguments of every ``load``.
        history: arguments of every ``classify``.
    """

    def __init__(self) -> None:
        self._queue: list[Verdict | BaseException] = []
        self.loads: list[tuple[Any, Any, Mapping[str, Any]]] = []
        self.history: list[dict[str, Any]] = []
        self.closed = 0

    def enqueue(self, *answers: Verdict | BaseException) -> None:
        """What the next calls give; exceptions are raised."""
        self._queue += answers

    def load(self, text_gguf: Any, mmproj_gguf: Any, *, on_progress: Any = None, **options: Any) -> "FakeGuard":
        """Stands in for ``Guard.load``."""
        if on_progress is not None:
            on_progress(Progress("checking files", 1, 2, "bytes"))
        self.loads.append((text_gguf, mmproj_gguf, options))
        return self

    def classify(self, conversation: Any = None, **arguments: Any) -> Verdict:
        """The next answer of the queue."""
        self.history.append({"conversation": conversation, **arguments})
        answer = self._queue.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> "FakeGuard":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1
