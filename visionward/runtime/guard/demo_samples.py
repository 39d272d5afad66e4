"""The samples that come with the demonstration guard, and what must be said wherever its verdicts are shown."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from visionward.errors import ConversationError
from visionward.runtime.guard.verdict import Verdict

# The name of its files in the cache; what tells that it is a toy is a key in them (mmproj_format.KEY_DEMONSTRATION).
DEMO_GUARD_NAME = "demo-guard"
TOY_NOTICE = (
    "this is the demonstration guard: a toy model for checking the installation, not a safety classifier; "
    "its verdicts mean nothing outside its own samples."
)


@dataclass(frozen=True)
class DemoSample:
    """An image, what was said about it, and the verdict that the demonstration guard was trained to give.

    Attributes:
        image: the picture's path, or None for text alone.
        prompt: what the user says.
        response: what the assistant answered, or None.
        label: the expected verdict.
        categories: the codes that are expected with ``unsafe``.
    """

    image: Path | None
    prompt: str | None
    response: str | None
    label: Literal["safe", "unsafe"]
    categories: tuple[str, ...]

    def matches(self, verdict: Verdict) -> bool:
        """Whether a verdict is the expected one, categories included."""
        named = {category.code for category in verdict.categories}
        return verdict.verdict == self.label and named == set(self.categories)


def read_demo_samples(path: Path | None = None) -> tuple[DemoSample, ...]:
    """The packaged samples.

    Args:
        path: another ``samples.jsonl``; image paths are relative to it.

    Raises:
        ConversationError: if this installation comes without them, or a line is malformed.
    """
    path = (
        Path(str(resources.files("visionward").joinpath("demo_guard/samples/samples.jsonl"))) if path is None else path
    )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ConversationError("this installation of visionward comes without the demo's samples.") from error
    samples = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                samples.append(_sample(json.loads(line), path.parent))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConversationError(f"{path.name}: line {number} is no sample ({error}).") from error
    return tuple(samples)


def _sample(entry: dict[str, Any], folder: Path) -> DemoSample:
    label = entry["label"]
    if label not in ("safe", "unsafe"):
        raise ValueError(f"the label is {label!r}")
    image = entry.get("image")
    return DemoSample(
        image=None if image is None else folder / image,
        prompt=entry.get("prompt"),
        response=entry.get("response"),
        label=label,
        categories=tuple(entry.get("categories") or ()),
    )
