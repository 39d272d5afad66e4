"""Conversion of Hugging Face checkpoints into a text GGUF and an mmproj GGUF."""

from visionward.convert.conversion import ConvertedPair, convert_checkpoint
from visionward.errors import OutputError

__all__ = ["ConvertedPair", "OutputError", "convert_checkpoint"]
