"""Which engine runs the tower, and what happens with towers that are missing, damaged, foreign or of another model."""

import logging
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from visionward import Engine, Guard
from visionward.convert import ConvertedPair
from visionward.runtime import vision_backend, vision_memory
from visionward.runtime.errors import ComputeError, ModelFileError, NativeLibraryError, VisionwardError
from visionward.runtime.gguf_header import GgufHeader
from visionward.runtime.mmproj_file import read_config
from visionward.runtime.onnx_format import (
    WEIGHT_TYPES,
    TowerIdentity,
    data_path,
    read_identity,
    seal,
)
from visionward.runtime.onnx_tower import OnnxTower
from visionward.runtime.onnxruntime_session import CPU_PROVIDER
from visionward.runtime.processor import Memory
from visionward.runtime.vision_backend import Chosen, VisionOptions, choose_backend
from visionward.runtime.vision_memory import tower_bytes

PICTURE = np.random.default_rng(5).integers(0, 255, (90, 130, 3), np.uint8)
BACKENDS = ("onnx", "openvino")


@pytest.fixture
def pair(pair_of, tmp_path: Path) -> ConvertedPair:
    """A pair in a folder of its own."""
    made = pair_of("plain", "f32")
    return ConvertedPair(Path(shutil.copy(made.text, tmp_path)), Path(shutil.copy(made.mmproj, tmp_path)))


@pytest.fixture
def tower(pair: ConvertedPair, tower_of) -> Path:
    """An ONNX tower beside the pair."""
    return copy_tower(tower_of("plain", "f32"), pair.mmproj.parent / "vision-plain-f32.onnx")


@pytest.fixture(autouse=True)
def _unlimited(monkeypatch) -> None:
    """No container's limit, whatever the tests run in."""
    limit_memory(monkeypatch, None)


def limit_memory(monkeypatch, limit: int | None) -> None:
    monkeypatch.setattr(vision_memory, "read_memory", lambda: Memory(2**36, 2**36, limit))


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


def missing(monkeypatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


# What auto takes.


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize(
    ("absent", "wanted"), [((), "openvino"), (("openvino",), "onnx"), (("openvino", "onnxruntime"), "ggml")]
)
def test_auto_takes_the_fastest_that_is_installed(pair, monkeypatch, absent, wanted) -> None:
    missing(monkeypatch, *absent)
    assert backend_of(pair) == wanted


def test_auto_without_a_tower(pair) -> None:
    assert backend_of(pair) == "ggml"


def test_auto_with_a_tower_of_another_model(pair, tower_of) -> None:
    copy_tower(tower_of("unlike", "f32"), pair.mmproj.parent / "vision-unlike-f32.onnx")
    assert backend_of(pair) == "ggml"


def test_a_tower_elsewhere_is_taken_if_it_is_named(pair_of, tower) -> None:
    assert backend_of(pair_of("plain", "f32")) == "ggml"
    assert backend_of(pair_of("plain", "f32"), onnx_tower=tower) == "openvino"


def test_float16_is_preferred(pair, tower_of) -> None:
    for weight_type in reversed(WEIGHT_TYPES):
        path = pair.mmproj.parent / f"vision-plain-{weight_type}.onnx"
        copy_tower(tower_of("plain", weight_type), path)
        file = GgufHeader(pair.mmproj)
        chosen = choose_backend(VisionOptions(), file, read_config(file), gpu=False, room=None)
        assert (chosen.tower, chosen.weight_type) == (path, weight_type)


def test_ggml_on_a_gpu_unless_a_tower_was_named(pair, tower) -> None:
    file = GgufHeader(pair.mmproj)
    assert choose_backend(VisionOptions(), file, read_config(file), gpu=True, room=None) == Chosen("ggml")
    named = choose_backend(VisionOptions(tower=tower), file, read_config(file), gpu=True, room=None)
    assert named.tower == tower


@pytest.mark.usefixtures("tower")
def test_another_provider_is_onnx_runtimes(pair) -> None:
    file = GgufHeader(pair.mmproj)
    options = VisionOptions(provider="CUDAExecutionProvider")
    chosen = choose_backend(options, file, read_config(file), gpu=False, room=None)
    assert (chosen.backend, chosen.provider) == ("onnx", "CUDAExecutionProvider")


@pytest.mark.usefixtures("tower")
def test_auto_keeps_to_a_limit(pair) -> None:
    assert backend_of(pair, memory_limit=2**30) == "openvino"
    assert backend_of(pair, memory_limit=2**20) == "ggml"


@pytest.mark.usefixtures("tower")
def test_auto_keeps_to_the_containers_limit(pair, monkeypatch) -> None:
    limit_memory(monkeypatch, 2**20)
    assert backend_of(pair) == "ggml"
    assert backend_of(pair, memory_limit=2**40) == "ggml"
    limit_memory(monkeypatch, 2**40)
    assert backend_of(pair, memory_limit=2**20) == "ggml"
    assert backend_of(pair) == "openvino"


def test_the_limit_decides_to_the_byte(pair, tower) -> None:
    file = GgufHeader(pair.mmproj)
    config = read_config(file)
    identity = read_identity(tower)
    needed = {backend: tower_bytes(backend, identity, config.vision) for backend in BACKENDS}
    least = min(needed.values())
    options = VisionOptions()
    assert choose_backend(options, file, config, gpu=False, room=least).tower == tower
    assert choose_backend(options, file, config, gpu=False, room=least - 1) == Chosen("ggml")


@pytest.mark.usefixtures("tower")
def test_a_backend_that_was_named_ignores_the_limit(pair) -> None:
    for backend in BACKENDS:
        assert backend_of(pair, vision_backend=backend, memory_limit=2**20) == backend


@pytest.mark.usefixtures("tower")
def test_what_is_computed_exactly_is_ggmls(pair) -> None:
    assert backend_of(pair, exact=True) == "ggml"
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="exact computation is ggml's"):
            load(pair, exact=True, vision_backend=backend)


def test_no_such_backend(pair) -> None:
    with pytest.raises(ValueError, match="no vision backend 'torch', only auto, ggml, onnx, openvino"):
        load(pair, vision_backend="torch")


@pytest.mark.usefixtures("tower")
def test_ggml_does_not_look_for_towers(pair, monkeypatch) -> None:
    monkeypatch.setattr(vision_backend, "_find", None)
    assert backend_of(pair, vision_backend="ggml") == "ggml"


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_verdict_says_which_engine_it_was(pair, backend: str) -> None:
    with Guard.load(pair.text, pair.mmproj, n_ctx=512, threads=1, vision_backend=backend) as guard:
        assert guard.classify(image=PICTURE, prompt="Look").vision_backend == backend
        assert guard.classify(prompt="Look").vision_backend is None


# What an engine that was named needs.


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tower(pair, backend: str) -> None:
    message = refused(pair, vision_backend=backend)
    assert f"`visionward export-onnx {pair.mmproj}`" in message
    assert "--onnx-tower" in message


@pytest.mark.usefixtures("tower")
def test_not_installed(pair, monkeypatch) -> None:
    missing(monkeypatch, "openvino", "onnxruntime")
    assert "pip install 'visionward[openvino]'" in refused(pair, NativeLibraryError, vision_backend="openvino")
    assert "pip install onnxruntime" in refused(pair, NativeLibraryError, vision_backend="onnx")


def test_installed_but_broken(pair, tower, monkeypatch, caplog) -> None:
    def broken(*_: object, **__: object) -> None:
        raise NativeLibraryError("OpenVINO cannot be loaded (libtbb.so.12 is missing).")

    monkeypatch.setattr(vision_backend, "OpenVinoSession", broken)
    for options in ({"vision_backend": "openvino"}, {"onnx_tower": tower}):
        assert "libtbb.so.12" in refused(pair, NativeLibraryError, **options)
    assert backend_of(pair) == "ggml"
    assert "an ONNX tower is left out: OpenVINO cannot be loaded (libtbb.so.12" in caplog.text


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_no_such_provider(pair, backend: str) -> None:
    message = refused(pair, NativeLibraryError, vision_backend=backend, onnx_provider="AbacusExecutionProvider")
    assert "has no AbacusExecutionProvider, only" in message
    assert CPU_PROVIDER in message


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_named_tower_of_another_model(pair, tower_of, backend: str) -> None:
    message = refused(pair, vision_backend=backend, onnx_tower=tower_of("unlike", "f32"))
    assert "do not belong together" in message


def test_a_tower_that_was_trained_further(pair, tower) -> None:
    """The text hash does not cover the tower: one bias alone must tell the two apart."""
    stored = GgufHeader(pair.mmproj).tensors["v.blk.2.ffn_up.bias"]
    content = bytearray(pair.mmproj.read_bytes())
    content[stored.offset : stored.offset + 4] = struct.pack("<f", 1.25)
    pair.mmproj.write_bytes(content)
    assert "do not belong together" in refused(pair, onnx_tower=tower)
    assert backend_of(pair) == "ggml"


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_tower_serves_every_type_of_its_mmproj_file(pair_of, tower_of, kind: str) -> None:
    assert backend_of(pair_of("plain", kind), onnx_tower=tower_of("plain", "f16")) in BACKENDS


# Damaged towers. One that was found is left out, with a warning; one that was named is refused.


def drop_data(tower: Path) -> None:
    data_path(tower).unlink()


def cut_data(tower: Path) -> None:
    data_path(tower).write_bytes(data_path(tower).read_bytes()[:-1])


def cut_graph(tower: Path) -> None:
    tower.write_bytes(tower.read_bytes()[:-100])


def empty_graph(tower: Path) -> None:
    tower.write_bytes(b"")


def text_instead(tower: Path) -> None:
    tower.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def huge_file(tower: Path) -> None:
    with tower.open("r+b") as file:
        file.truncate(2**30)


def foreign_model(tower: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    tower.write_bytes(helper.make_model(graph).SerializeToString())


def rewrite(tower: Path, model: onnx.ModelProto) -> None:
    """Sealed as an export is, so that something else must see what is wrong."""
    graph = model.SerializeToString()
    tower.write_bytes(graph)
    data = data_path(tower)
    weights = data.read_bytes()
    data.write_bytes(weights[: -len(seal(graph))] + seal(graph))


def set_key(tower: Path, key: str, value: str | None) -> None:
    model = onnx.load(tower, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert key in kept
    del kept[key]
    helper.set_model_props(model, kept if value is None else kept | {key: value})
    rewrite(tower, model)


def another_version(tower: Path) -> None:
    set_key(tower, "visionward.format_version", "2")


def no_text_hash(tower: Path) -> None:
    set_key(tower, "visionward.text_hash", None)


def no_number(tower: Path) -> None:
    set_key(tower, "visionward.data_bytes", "many")


def no_type(tower: Path) -> None:
    set_key(tower, "visionward.weight_type", "int3")


def other_data(tower: Path) -> None:
    data = data_path(tower)
    data.write_bytes(data.read_bytes()[:-32] + bytes(32))


def a_flipped_constant(tower: Path) -> None:
    model = onnx.load(tower, load_external_data=False)
    constant = next(c for c in model.graph.initializer if c.data_type == TensorProto.FLOAT and c.raw_data)
    raw = constant.raw_data
    content = tower.read_bytes()
    at = content.rindex(raw)
    tower.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def elsewhere(tower: Path) -> None:
    """The engine would read other weights than those that were looked at."""
    model = onnx.load(tower, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "vision-other-f32.onnx.data"
    rewrite(tower, model)


def an_unknown_operator(tower: Path) -> None:
    model = onnx.load(tower, load_external_data=False)
    model.graph.node[0].op_type = "Sharpe"
    rewrite(tower, model)


DAMAGES = {
    drop_data: "holds the weights of vision-plain-f32.onnx, is missing",
    cut_data: "bytes, expected",
    cut_graph: "is no ONNX file, or is damaged",
    empty_graph: "has 0 bytes",
    text_instead: "is no ONNX file, or is damaged",
    huge_file: "is another kind of file",
    foreign_model: "no vision tower that visionward exported",
    another_version: "has format version 2, this visionward reads 1",
    no_text_hash: "lacks a key, or one is wrong (visionward.text_hash)",
    no_number: "has a key that is no number",
    no_type: "one is wrong (visionward.weight_type)",
    other_data: "is damaged, or vision-plain-f32.onnx.data is of another export",
    elsewhere: "was renamed: its weights are in vision-other-f32.onnx.data",
    a_flipped_constant: "is damaged, or vision-plain-f32.onnx.data is of another export",
    an_unknown_operator: "cannot load",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_tower(pair, tower, caplog, damage) -> None:
    damage(tower)
    for backend in ("auto", *BACKENDS):
        message = refused(pair, vision_backend=backend, onnx_tower=tower)
        assert DAMAGES[damage] in message
        assert tower.name in message
    with caplog.at_level(logging.WARNING):
        assert backend_of(pair) == "ggml"
    assert DAMAGES[damage] in caplog.text
    assert "an ONNX tower is left out" in caplog.text


def test_a_missing_tower(pair, tmp_path: Path) -> None:
    assert "No such file" in refused(pair, onnx_tower=tmp_path / "none.onnx")
    assert "Is a directory" in refused(pair, onnx_tower=tmp_path)


@pytest.fixture(scope="module")
def whole(tower_of, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tower(tower_of("plain", "f16"), tmp_path_factory.mktemp("damaged") / "vision-plain-f16.onnx")


@given(seed=st.integers(0, 2**32))
def test_no_flipped_bit_of_the_graph_is_taken(whole: Path, seed: int) -> None:
    rng = random.Random(seed)
    content = whole.read_bytes()
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    try:
        whole.write_bytes(changed)
        with pytest.raises(ModelFileError):
            read_identity(whole)
    finally:
        whole.write_bytes(content)
    assert read_identity(whole).weight_type == "f16"


@given(content=st.binary(max_size=200))
def test_random_bytes_are_no_tower(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "vision-random.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_identity(path)
    assert "\n" not in str(caught.value)


# What an engine gives.


class OddSession:
    """Gives what it is told to."""

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
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "mm.0.bias")
    offset = int(next(entry.value for entry in bias.external_data if entry.key == "offset"))
    content = bytearray(data_path(tower).read_bytes())
    content[offset : offset + 4] = struct.pack("<f", np.inf)
    data_path(tower).write_bytes(content)
    with (
        Guard.load(pair.text, pair.mmproj, n_ctx=512, threads=1, vision_backend=backend) as guard,
        pytest.raises(ComputeError, match="not all finite"),
    ):
        guard.classify(image=PICTURE, prompt="Look")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_that_fails_says_so_in_one_line(tower, backend: str) -> None:
    session = Chosen(backend, tower, "f32").session(1)
    with closing(session), pytest.raises(ComputeError, match="could not encode the image") as caught:
        session.run(np.zeros((1, 3, 14, 14), np.float32), 1, lambda: None)
    assert "\n" not in str(caught.value)
    session.close()


# Memory.


def test_estimates_are_ordered(pair) -> None:
    vision = read_config(GgufHeader(pair.mmproj)).vision
    real = replace(
        vision, tile_size=560, width=1280, feed_forward_length=5120, head_count=16, local_layers=32, global_layers=8
    )
    weights = 850e6
    found = {}
    for weight_type, bits in (("f32", 32), ("f16", 16), ("int8", 8.5), ("int4", 5)):
        identity = TowerIdentity("", "", weight_type, "", 4096, int(bits / 8 * weights))
        for backend in BACKENDS:
            found[backend, weight_type] = tower_bytes(backend, identity, real)
            # The file and the activations at least, and no more than the file, float32 weights and the activations.
            assert identity.data_bytes + 0.5e9 < found[backend, weight_type] < identity.data_bytes + 4 * weights + 1e9
    for backend in BACKENDS:
        assert found[backend, "int4"] < found[backend, "int8"] < found[backend, "f16"] < found[backend, "f32"]
    assert all(found["openvino", kind] <= found["onnx", kind] for kind in ("f32", "f16", "int8", "int4"))
    assert tower_bytes("onnx", identity, real) > tower_bytes("onnx", identity, replace(real, max_tiles=1))


def test_what_is_left_for_the_tower(pair, monkeypatch) -> None:
    file = GgufHeader(pair.mmproj)
    config = read_config(file)

    def room(limit: int | None, cells: int = 64) -> int | None:
        return vision_memory.room_for_tower(limit, pair.text, file, config, cells=cells)

    assert room(None) is None
    base = room(10 * 2**30)
    assert base is not None
    assert base < 10 * 2**30 - pair.text.stat().st_size
    assert room(10 * 2**30 + 1) == base + 1
    # One more cell of the KV cache: keys and values of two heads of 64, in float16, in four layers.
    assert room(10 * 2**30, cells=65) == base - 4 * 2 * 2 * 2 * 64
    limit_memory(monkeypatch, 2**30)
    assert room(10 * 2**30) == room(None) == room(2**30)


# ONNX Runtime writes a device id and a database of events to the cache folder, unless it is told not to.
TELEMETRY = """
import sys
from pathlib import Path
from visionward.runtime.onnxruntime_session import OnnxRuntimeSession
OnnxRuntimeSession(Path(sys.argv[1]), threads=1).close()
"""


def test_onnx_runtime_leaves_nothing_behind(tower_of, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    command = [sys.executable, "-c", TELEMETRY, str(tower_of("plain", "f32"))]
    subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[2])
    assert list(tmp_path.rglob("*")) == []
