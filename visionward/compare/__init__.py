"""Comparison: accuracy, size and speed of quantized guards, on labelled samples."""

import logging

from visionward.compare.comparison import Comparison, run
from visionward.compare.datasets import Dataset, read_dataset
from visionward.compare.models import Endpoint, GuardFiles
from visionward.compare.plan import ComparisonPlan
from visionward.compare.settings import EndpointSettings, GuardSettings

__all__ = [
    "Comparison",
    "ComparisonPlan",
    "Dataset",
    "Endpoint",
    "EndpointSettings",
    "GuardFiles",
    "GuardSettings",
    "read_dataset",
    "run",
]

# Without a handler, Python prints warnings on standard error.
logging.getLogger(__name__).addHandler(logging.NullHandler())
