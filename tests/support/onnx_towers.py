"""Loading a pair with an ONNX tower, for tests of towers."""

import os
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from visionward import Engine
from visionward.convert import ConvertedPair
from visionward.errors import ModelFileError, VisionwardError
from visionward.formats.onnx_format import CHECKSUM_BYTES, checksums, data_path
from visionward.machine.processor import Memory
from visionward.runtime.images import memory_budget
from visionward.runtime.vision import vision_memory

PICTURE = np.random.default_rng(5).integers(0, 255, (90, 130, 3), np.uint8)
BACKENDS = ("onnx", "openvino")


def limit_memory(monkeypatch, limit: int | None) -> None:
    for module in (vision_memory, memory_budget):
        monkeypatch.setattr(module, "read_memory", lambda: Memory(2**36, 2**36, limit))


def copy_tower(source: Path, target: Path) -> Path:
    shutil.copy(data_path(source), data_path(target))
    return Path(shutil.copy(source, target))


def load(pair: ConvertedPair, **options: object) -> Engine:
    return Engine(pair.text, pair.mmproj, n_ctx=64, threads=1, **options)


def backend_of(pair: ConvertedPair, **options: object) -> str:
    with closing(load(pair, **options)) as engine:
        features = engine.encode_image(PICTURE)
        assert np.isfinite(features).all()
        return engine.vision_backend


def refused(pair: ConvertedPair, kind: type[VisionwardError] = ModelFileError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        load(pair, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(tower: Path, model: onnx.ModelProto) -> None:
    """With checksums as an export has them, so that something else must see what is wrong."""
    graph = model.SerializeToString()
    tower.write_bytes(graph)
    data = data_path(tower)
    weights = data.stat().st_size - CHECKSUM_BYTES
    with data.open("r+b") as file:
        found = checksums(graph, file, weights)
        file.seek(-CHECKSUM_BYTES, os.SEEK_END)
        file.write(found)
