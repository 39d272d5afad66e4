"""The plan of a comparison: models, samples, settings."""

from dataclasses import dataclass, field
from pathlib import Path

from visionward.compare.datasets import Dataset
from visionward.compare.models import Endpoint, GuardFiles
from visionward.compare.settings import EndpointSettings, GuardSettings


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison to run.

    Attributes:
        reference: the pair that the others are compared with.
        candidates: other GGUF pairs.
        datasets: samples to judge; figures are given per data set and never pooled.
        endpoints: models behind an API.
        settings: how every pair is run.
        endpoint_settings: how every endpoint is asked.
        margin: loss of recall, and rise of the false-positive rate, that still counts as equivalent (0.02: 2 points).
        quoted: show the model card's published figures in the report.
        work: folder for results so far: a comparison that was interrupted goes on there. None for a temporary folder,
            which is removed at the end.
        keep_logits: leave the reference's logits in ``work``, so that candidates can be added later.
        command: the command line that asked for the comparison, for the report; None if there was none.
    """

    reference: GuardFiles
    candidates: tuple[GuardFiles, ...]
    datasets: tuple[Dataset, ...]
    endpoints: tuple[Endpoint, ...] = ()
    settings: GuardSettings = field(default_factory=GuardSettings)
    endpoint_settings: EndpointSettings = field(default_factory=EndpointSettings)
    margin: float = 0.02
    quoted: bool = False
    work: Path | None = None
    keep_logits: bool = False
    command: str | None = None

    @property
    def pairs(self) -> tuple[GuardFiles, ...]:
        """The reference, then the candidates."""
        return self.reference, *self.candidates
