"""What long work tells whoever waits: one callback for loading, classifying, converting, exporting and batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["bytes", "tiles", "layers", "tokens", "tensors", "samples"]


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: what is under way, in a word or two that a person can read: ``vision``, ``prompt``, ``text file``.
        done: units that are done.
        total: units of the whole stage.
        unit: what is counted.
    """

    stage: str
    done: int
    total: int
    unit: Unit


# Called on the thread that does the work, often: it should return at once. What it raises ends the work.
OnProgress: TypeAlias = Callable[[Progress], None]
