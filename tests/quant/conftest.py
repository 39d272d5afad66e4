"""One tiny checkpoint whose matrices K-quants can hold, converted and quantized once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.quant.quantize import quantize_file


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 values in the decoder and in the tower."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("wide") / "wide", seed=5, vision_width=256)


@pytest.fixture(scope="session")
def f16_pair(wide_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedPair:
    return convert_checkpoint(wide_checkpoint, tmp_path_factory.mktemp("f16"))


@pytest.fixture(scope="session")
def quantized(f16_pair: ConvertedPair, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ConvertedPair]:
    """``quantized(kind)``: both files of the f16 pair in a type."""
    folder = tmp_path_factory.mktemp("quantized")
    pairs: dict[str, ConvertedPair] = {}

    def make(kind: str) -> ConvertedPair:
        if kind not in pairs:
            pair = ConvertedPair(folder / f"text-{kind}.gguf", folder / f"mmproj-{kind}.gguf")
            quantize_file(f16_pair.text, pair.text, kind, threads=1)
            quantize_file(f16_pair.mmproj, pair.mmproj, kind, threads=1)
            pairs[kind] = pair
        return pairs[kind]

    return make
