"""Which engine runs the tower, what it needs, and how much memory it may take."""

import struct
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from gguf_edit import GgufFile
from onnx_towers import BACKENDS, PICTURE, backend_of, copy_tower, limit_memory, load, refused
from true_shape import TRUE_LAYERS

from visionward import Guard
from visionward.errors import NativeLibraryError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.formats.onnx_format import (
    WEIGHT_TYPES,
    TowerIdentity,
    read_identity,
)
from visionward.names import CPU_PROVIDER
from visionward.runtime.vision import openvino_session, vision_backend, vision_memory
from visionward.runtime.vision.vision_backend import Chosen, VisionOptions, choose_backend
from visionward.runtime.vision.vision_memory import tower_bytes

pytestmark = pytest.mark.usefixtures("unlimited")


def missing(monkeypatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


# What auto takes.


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize(
    ("precision", "absent", "wanted"),
    [
        ("bf16", (), "openvino"),
        ("bf16", ("openvino",), "onnx"),
        ("f32", (), "onnx"),
        ("f32", ("onnxruntime",), "openvino"),
        ("f32", ("openvino", "onnxruntime"), "ggml"),
    ],
)
def test_auto_takes_the_fastest_that_is_installed(pair, monkeypatch, precision, absent, wanted) -> None:
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: precision)
    missing(monkeypatch, *absent)
    file = GgufHeader(pair.mmproj)
    assert (
        choose_backend(VisionOptions(), file, read_mmproj_config(file), gpu=False, memory_budget=None).backend == wanted
    )
    if precision == "f32":
        assert backend_of(pair) == wanted


def test_auto_without_a_tower(pair) -> None:
    assert backend_of(pair) == "ggml"


def test_auto_with_a_tower_of_another_model(pair, tower_of) -> None:
    copy_tower(tower_of("unlike", "f32"), pair.mmproj.parent / "vision-unlike-f32.onnx")
    assert backend_of(pair) == "ggml"


def test_a_tower_elsewhere_is_taken_if_it_is_named(pair_of, tower) -> None:
    assert backend_of(pair_of("plain", "f32")) == "ggml"
    assert backend_of(pair_of("plain", "f32"), onnx_tower=tower) in BACKENDS


def test_float16_is_preferred(pair, tower_of) -> None:
    for weight_type in reversed(WEIGHT_TYPES):
        path = pair.mmproj.parent / f"vision-plain-{weight_type}.onnx"
        copy_tower(tower_of("plain", weight_type), path)
        file = GgufHeader(pair.mmproj)
        chosen = choose_backend(VisionOptions(), file, read_mmproj_config(file), gpu=False, memory_budget=None)
        assert (chosen.tower, chosen.weight_type) == (path, weight_type)


def test_ggml_on_a_gpu_unless_a_tower_was_named(pair, tower) -> None:
    file = GgufHeader(pair.mmproj)
    assert choose_backend(VisionOptions(), file, read_mmproj_config(file), gpu=True, memory_budget=None) == Chosen(
        "ggml"
    )
    named = choose_backend(VisionOptions(tower=tower), file, read_mmproj_config(file), gpu=True, memory_budget=None)
    assert named.tower == tower


@pytest.mark.usefixtures("tower")
def test_another_provider_is_onnx_runtimes(pair) -> None:
    file = GgufHeader(pair.mmproj)
    options = VisionOptions(provider="CUDAExecutionProvider")
    chosen = choose_backend(options, file, read_mmproj_config(file), gpu=False, memory_budget=None)
    assert (chosen.backend, chosen.provider) == ("onnx", "CUDAExecutionProvider")
    assert choose_backend(options, file, read_mmproj_config(file), gpu=True, memory_budget=None) == chosen
    assert choose_backend(options, file, read_mmproj_config(file), gpu=False, memory_budget=0) == chosen


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", ["ggml", "openvino"])
def test_a_provider_is_of_onnx_runtime_alone(pair, backend: str) -> None:
    message = refused(pair, NativeLibraryError, vision_backend=backend, onnx_provider="CUDAExecutionProvider")
    assert f"has no effect on {backend}" in message


def test_another_provider_needs_a_tower(pair) -> None:
    """It is not left out silently, as one that nobody asked for."""
    message = refused(pair, onnx_provider="CUDAExecutionProvider")
    assert "no ONNX tower beside" in message


@pytest.mark.usefixtures("tower")
def test_auto_keeps_to_a_limit(pair, monkeypatch) -> None:
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "bf16")
    assert backend_of(pair, memory_limit=2**30) == "openvino"
    assert backend_of(pair, memory_limit=2**20) == "ggml"


@pytest.mark.usefixtures("tower")
def test_auto_keeps_to_the_containers_limit(pair, monkeypatch) -> None:
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "bf16")
    limit_memory(monkeypatch, 2**20)
    assert backend_of(pair) == "ggml"
    assert backend_of(pair, memory_limit=2**40) == "ggml"
    limit_memory(monkeypatch, 2**40)
    assert backend_of(pair, memory_limit=2**20) == "ggml"
    assert backend_of(pair) == "openvino"


def test_the_limit_decides_to_the_byte(pair, tower) -> None:
    file = GgufHeader(pair.mmproj)
    config = read_mmproj_config(file)
    identity = read_identity(tower)
    needed = {backend: tower_bytes(backend, identity, config.vision) for backend in BACKENDS}
    least = min(needed.values())
    options = VisionOptions()
    assert choose_backend(options, file, config, gpu=False, memory_budget=least).tower == tower
    assert choose_backend(options, file, config, gpu=False, memory_budget=least - 1) == Chosen("ggml")


@pytest.mark.usefixtures("tower")
def test_a_backend_that_was_named_ignores_the_limit(pair) -> None:
    for backend in BACKENDS:
        assert backend_of(pair, vision_backend=backend, memory_limit=2**20) == backend


@pytest.mark.usefixtures("tower")
def test_what_is_computed_exactly_is_ggmls(pair) -> None:
    assert backend_of(pair, exact=True) == "ggml"
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="exact computation needs the vision backend ggml"):
            load(pair, exact=True, vision_backend=backend)


def test_no_such_backend(pair) -> None:
    with pytest.raises(ValueError, match="unknown vision backend 'torch'; choose auto, ggml, onnx or openvino"):
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
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "bf16")
    for options in ({"vision_backend": "openvino"}, {"onnx_tower": tower}):
        assert "libtbb.so.12" in refused(pair, NativeLibraryError, **options)
    assert backend_of(pair) == "ggml"
    assert "an ONNX tower is ignored: OpenVINO cannot be loaded (libtbb.so.12" in caplog.text


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_no_such_provider(pair, backend: str) -> None:
    message = refused(pair, NativeLibraryError, vision_backend=backend, onnx_provider="AbacusExecutionProvider")
    assert "but not AbacusExecutionProvider" in message
    assert CPU_PROVIDER in message


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_no_such_openvino_device(pair, backend: str) -> None:
    message = refused(pair, NativeLibraryError, vision_backend=backend, openvino_device="GPU")
    assert message.startswith("OpenVINO found no device GPU (--openvino-device); it has CPU.")


@pytest.mark.usefixtures("tower")
@pytest.mark.parametrize("backend", ["ggml", "onnx"])
def test_an_openvino_device_is_of_openvino_alone(pair, backend: str) -> None:
    message = refused(pair, NativeLibraryError, vision_backend=backend, openvino_device="NPU")
    assert f"has no effect on {backend}" in message


@pytest.mark.usefixtures("tower")
def test_auto_of_openvino_is_the_cpu_where_there_is_no_other(pair) -> None:
    with closing(load(pair, openvino_device="AUTO")) as engine:
        assert (engine.vision_backend, engine.devices.vision) == ("openvino", "CPU")


@pytest.mark.parametrize(
    ("device", "found", "expected"),
    [
        ("CPU", ["CPU", "GPU"], "CPU"),
        ("gpu", ["CPU", "GPU.0", "GPU.1"], "GPU.0"),
        ("GPU.1", ["CPU", "GPU.0", "GPU.1"], "GPU.1"),
        ("AUTO", ["CPU", "NPU"], "NPU"),
        ("AUTO", ["CPU", "GPU", "NPU"], "GPU"),
    ],
)
def test_names_of_openvino_devices(device: str, found: list[str], expected: str) -> None:
    assert openvino_session._available(device, found) == expected


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_named_tower_of_another_model(pair, tower_of, backend: str) -> None:
    message = refused(pair, vision_backend=backend, onnx_tower=tower_of("unlike", "f32"))
    assert "do not belong together" in message


def test_a_tower_that_was_trained_further(pair, tower) -> None:
    """The text hash does not cover the tower: one bias alone must tell the two apart."""
    file = GgufFile(pair.mmproj)
    bias = file.tensor("v.blk.2.ffn_up.bias")
    bias.data = struct.pack("<f", 1.25) + bias.data[4:]
    file.write(pair.mmproj)
    assert "do not belong together" in refused(pair, onnx_tower=tower)
    assert backend_of(pair) == "ggml"


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_tower_serves_every_type_of_its_mmproj_file(pair_of, tower_of, kind: str) -> None:
    assert backend_of(pair_of("plain", kind), onnx_tower=tower_of("plain", "f16")) in BACKENDS


# Memory.


def test_estimates_are_ordered(pair) -> None:
    vision = read_mmproj_config(GgufHeader(pair.mmproj)).vision
    real = replace(vision, tile_size=560, **TRUE_LAYERS)
    weights = 850e6
    found = {}
    for weight_type, bits in (("f32", 34), ("f16", 17), ("int8", 10)):
        identity = TowerIdentity("", "", weight_type, "", 4096, int(bits / 8 * weights))
        for backend in BACKENDS:
            found[backend, weight_type] = tower_bytes(backend, identity, real)
            # The file and the activations at least, and no more than the file, float32 weights and the activations.
            assert identity.data_bytes + 0.5e9 < found[backend, weight_type] < identity.data_bytes + 4 * weights + 3e9
    for backend in BACKENDS:
        assert found[backend, "int8"] < found[backend, "f16"] < found[backend, "f32"]
    # As measured with four tiles: 4.89 and 4.35 GiB, the first in bf16; with ONNX Runtime 1.28.
    assert found["openvino", "f16"] > 4.89 * 2**30
    assert found["openvino", "int8"] > 4.35 * 2**30
    assert found["onnx", "int8"] > 1.28 * 2**30
    assert tower_bytes("onnx", identity, real) > tower_bytes("onnx", identity, replace(real, max_tiles=1))


def test_what_is_left_for_the_tower(pair, monkeypatch) -> None:
    file = GgufHeader(pair.mmproj)
    config = read_mmproj_config(file)

    def budget(limit: int | None, cells: int = 64, ubatch: int = 16) -> int | None:
        return vision_memory.tower_memory_budget(limit, pair.text, file, config, cells=cells, ubatch=ubatch)

    assert budget(None) is None
    base = budget(10 * 2**30)
    assert base is not None
    assert base < 10 * 2**30 - pair.text.stat().st_size
    assert budget(10 * 2**30 + 1) == base + 1
    # One more cell of the KV cache: keys and values of two heads of 64, in float16, in four layers, and the scores that
    # four heads of 16 rows give it, in float32.
    assert budget(10 * 2**30, cells=65) == base - 4 * 2 * 2 * 2 * 64 - 4 * 16 * 4
    assert budget(10 * 2**30, ubatch=17) == base - 4 * 64 * 4
    limit_memory(monkeypatch, 2**30)
    assert budget(10 * 2**30) == budget(None) == budget(2**30)
