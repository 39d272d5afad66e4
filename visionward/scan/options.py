"""What the results of a scan depend on, besides the samples."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from visionward.errors import PolicyError
from visionward.formats.file_hash import file_hash
from visionward.names import DEFAULT_FRAMES, DEFAULT_THRESHOLD, ImitationTreatment
from visionward.runtime.engine_options import EngineKeywords, EngineOptions
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.runtime.guard.samples import Sample
from visionward.scan.item import Item

# Options that say where and how to compute, not what.
_PLACES = (
    "threads",
    "device",
    "vision_device",
    "gpu_layers",
    "image_cache_bytes",
    "kernels",
    "memory_limit",
    "onnx_tower",
)


@dataclass(frozen=True)
class ScanOptions:
    """The model, and how it judges.

    Attributes:
        pair: the text file and the mmproj file; None for the demonstration guard.
        engine: the fields of ``EngineOptions``, as for ``Guard.load``.
        policy: the categories in force.
        threshold: the verdict is unsafe if the score is at least this.
        category_scores: whether to score the categories for a safe verdict too.
        frames: judge at most so many frames of an image.
        imitation: what to do with text that imitates the prompt's own markers.

    Raises:
        PolicyError: if the threshold is not a probability.
        ValueError: if an engine option is out of range or unknown.
    """

    pair: tuple[Path, Path] | None
    engine: EngineKeywords = field(default_factory=EngineKeywords)
    policy: Policy = DEFAULT_POLICY
    threshold: float = DEFAULT_THRESHOLD
    category_scores: bool = False
    frames: int = DEFAULT_FRAMES
    imitation: ImitationTreatment = "judge"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise PolicyError(f"the threshold is {self.threshold}, expected a number between 0 and 1")
        EngineOptions(**self.engine)

    def with_threads(self, threads: int) -> "ScanOptions":
        """The same with another number of threads."""
        return replace(self, engine={**self.engine, "threads": threads})

    def for_several_processes(self) -> "ScanOptions":
        """The same with plain kernels in place of ``auto``: processes share plain weights, but not packed ones."""
        if self.engine.get("kernels", "auto") != "auto":
            return self
        return replace(self, engine={**self.engine, "kernels": "plain"})

    @cached_property
    def key(self) -> str:
        """A hash of everything that a result depends on besides the sample: equal on machines with equal files.

        Devices and kernels round differently. They are left out, so that a scan can go on elsewhere.

        Raises:
            ModelFileError: if a file cannot be read.
        """
        return self.fresh_key()

    def fresh_key(self) -> str:
        """The same, read again: a pickled ``key`` is that of another machine.

        Raises:
            ModelFileError: if a file cannot be read.
        """
        engine = asdict(EngineOptions(**self.engine))
        files = list(self.files())
        if (tower := engine["onnx_tower"]) is not None:
            files.append(Path(tower))
        values = {
            "files": [file_hash(path) for path in files],
            "engine": {name: value for name, value in engine.items() if name not in _PLACES},
            "policy": self.policy.prompt_categories(),
            "threshold": self.threshold,
            "category_scores": self.category_scores,
            "frames": self.frames,
            "imitation": self.imitation,
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def files(self) -> tuple[Path, Path]:
        """The pair on this machine."""
        if self.pair is not None:
            return self.pair
        from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415 - for this guard alone

        return demo_pair().text, demo_pair().mmproj

    def item_id(self, item: Item) -> str:
        """A hash of what is judged (image bytes, texts) and of ``key``: the ``id`` of a result.

        For a sample that cannot be read, it is a hash of the reason, which another reason changes.
        """
        content = item.content.digest() if isinstance(item.content, Sample) else f"error: {item.content}"
        return hashlib.sha256(f"{self.key} {content}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
