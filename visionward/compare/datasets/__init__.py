"""Data sets to compare guards on: our own JSONL, and adapters for public sets that the user already has."""

from visionward.compare.datasets.dataset import Dataset, LeftOut, with_own_names
from visionward.compare.datasets.formats import FORMATS, read_dataset
from visionward.compare.datasets.image_files import remove_images

__all__ = ["FORMATS", "Dataset", "LeftOut", "read_dataset", "remove_images", "with_own_names"]
