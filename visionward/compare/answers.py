"""One model's answers as arrays."""

from dataclasses import dataclass

import numpy as np

from visionward.compare.decisions import Bools, Values
from visionward.compare.journal import Judged


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers on the samples that all models judged.

    Attributes:
        judged: in the order of the samples.
        decisions: True for unsafe.
        scores: P(unsafe); 1 if the model gave no answer.
        always: samples that are unsafe at any threshold, because the model gave no answer.
    """

    judged: list[Judged]
    decisions: Bools
    scores: Values
    always: Bools

    @classmethod
    def of(cls, judged: list[Judged]) -> "Answers":
        """From answers that all gave a decision."""
        always = np.array([one.no_answer for one in judged], bool)
        scores = np.array([1.0 if one.no_answer else one.score or 0.0 for one in judged], np.float64)
        return cls(judged, np.array([bool(one.unsafe) for one in judged], bool), scores, always)
