"""What an engine gives that is no features is an error, never a verdict; and ONNX Runtime leaves nothing behind."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_towers import BACKENDS, PICTURE, rewrite

from visionward import Engine, Guard
from visionward.errors import ComputeError
from visionward.formats.onnx_format import (
    data_path,
)
from visionward.runtime.vision.session_tower import OnnxTower
from visionward.runtime.vision.vision_backend import Chosen

pytestmark = pytest.mark.usefixtures("unlimited")


class OddSession:
    """Gives what it is told to."""

    device = "CPU"

    def __init__(self, features: object) -> None:
        self.features = features

    def run(self, *_: object) -> object:
        if isinstance(self.features, Exception):
            raise self.features
        return self.features

    def close(self) -> None:
        """Nothing is kept."""


def spoiled(shape: tuple[int, ...], value: float) -> np.ndarray:
    features = np.zeros(shape, np.float32)
    features[0, -1, 3] = value
    return features


ODD = {
    "not a number": spoiled((1, 17, 256), np.nan),
    "infinite": spoiled((1, 17, 256), -np.inf),
    "another shape": np.zeros((1, 17, 255), np.float32),
    "more tiles": np.zeros((2, 17, 256), np.float32),
    "another type": np.zeros((1, 17, 256), np.float64),
    "an error": ComputeError("out of memory"),
}


@pytest.fixture(scope="module")
def plain_guard(pair_of) -> Iterator[Guard]:
    pair = pair_of("plain", "f32")
    with Guard(Engine(pair.text, pair.mmproj, n_ctx=512, threads=1, image_cache_bytes=0)) as guard:
        yield guard


@pytest.mark.parametrize("odd", ODD)
def test_no_verdict_from_odd_features(plain_guard: Guard, odd: str) -> None:
    square, engine = PICTURE[:50, :50], plain_guard.engine
    ggml, wanted = engine.tower, plain_guard.classify(image=square, prompt="Look").score
    engine.tower = OnnxTower(OddSession(ODD[odd]), engine.config, ggml._device)
    try:
        for _ in range(2):
            with pytest.raises(ComputeError):
                plain_guard.classify(image=square, prompt="Look")
    finally:
        engine.tower = ggml
    assert plain_guard.classify(image=square, prompt="Look").score == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_overflow_give_no_verdict(pair, tower, backend: str) -> None:
    model = onnx.load(tower, load_external_data=False)
    matrix = next(tensor for tensor in model.graph.initializer if tensor.name == "mm.0.weight")
    offset = int(next(entry.value for entry in matrix.external_data if entry.key == "offset"))
    content = bytearray(data_path(tower).read_bytes())
    content[offset : offset + 4] = struct.pack("<f", np.inf)
    data_path(tower).write_bytes(content)
    rewrite(tower, model)
    # With a GPU, loading computes an image too.
    with (
        pytest.raises(ComputeError, match="not all finite"),
        Guard.load(pair.text, pair.mmproj, n_ctx=512, threads=1, vision_backend=backend) as guard,
    ):
        guard.classify(image=PICTURE, prompt="Look")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_that_fails_says_so_in_one_line(tower, backend: str) -> None:
    session = Chosen(backend, tower, "f32").session(1)
    with closing(session), pytest.raises(ComputeError, match="could not encode the image") as caught:
        session.run(np.zeros((1, 3, 14, 14), np.float32), 1, lambda: None)
    assert "\n" not in str(caught.value)
    session.close()


# ONNX Runtime writes a device id and a database of events to the cache folder, unless it is told not to.
TELEMETRY = """
import sys
from pathlib import Path
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession
OnnxRuntimeSession(Path(sys.argv[1]), threads=1).close()
"""


def test_onnx_runtime_leaves_nothing_behind(tower_of, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    command = [sys.executable, "-c", TELEMETRY, str(tower_of("plain", "f32"))]
    subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[3])
    assert list(tmp_path.rglob("*")) == []
