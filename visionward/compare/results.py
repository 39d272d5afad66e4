"""What one model answered, on all samples."""

from collections.abc import Mapping
from dataclasses import dataclass

from visionward.compare.journal import FeatureError, Judged, Loaded
from visionward.compare.models import Model


@dataclass(frozen=True)
class ModelResults:
    """Answers of one model.

    Attributes:
        model: the model.
        judged: sample digest to answer.
        loads: one entry per load.
        features: relative errors of vision features.
        given_up: why the model was given up; None if it judged all samples.
    """

    model: Model
    judged: Mapping[str, Judged]
    loads: tuple[Loaded, ...] = ()
    features: tuple[FeatureError, ...] = ()
    given_up: str | None = None
