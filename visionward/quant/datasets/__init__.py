"""Data sets to compare guards on: our own JSONL, and adapters for public sets that the user already has."""

from visionward.quant.datasets.dataset import Dataset, LeftOut, with_own_names
from visionward.quant.datasets.formats import FORMATS, read_dataset
from visionward.quant.datasets.rows import remove_images

__all__ = ["FORMATS", "Dataset", "LeftOut", "read_dataset", "remove_images", "with_own_names"]
