"""Which engine runs the tower, what it needs, and how much memory it may take."""

import re
import struct
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from gguf_edit import GgufFile
from onnx_towers import BACKENDS, PICTURE, backend_of, copy_tower, limit_memory, load, refused
from true_shape import TRUE_LAYERS

from visionward import Guard
from visionward.errors import ComputeError, NativeLibraryError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.formats.onnx_format import (
    WEIGHT_TYPES,
    TowerIdentity,
    read_identity,
)
from visionward.names import CPU_PROVIDER, GPU_PROVIDERS
from visionward.runtime.vision import onnxruntime_session, openvino_session, vision_backend, vision_memory
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession
from visionward.runtime.vision.provider_share import ProviderShare
from visionward.runtime.vision.vision_backend import Chosen, VisionOptions, choose_backend
from visionward.runtime.vision.vision_memory import tower_bytes

pytestmark = pytest.mark.usefixtures("unlimited", "without_gpus")


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


# Providers for GPUs. The build for CPUs has one other provider, Azure's, which computes no node.

AZURE = "AzureExecutionProvider"


@pytest.fixture
def azure_as_gpu(monkeypatch):
    monkeypatch.setattr(onnxruntime_session, "GPU_PROVIDERS", ("CUDAExecutionProvider", AZURE))


def taken_by_auto(pair, **options: object) -> tuple[str, str | None, tuple[str, ...]]:
    with closing(load(pair, **options)) as engine:
        return engine.vision_backend, engine.devices.vision, engine.warnings


@pytest.mark.usefixtures("tower", "azure_as_gpu")
@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_a_provider_that_would_leave_products_to_the_cpu_is_not_taken(pair, monkeypatch, backend: str) -> None:
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "f32")
    taken, device, warnings = taken_by_auto(pair, vision_backend=backend)
    assert (taken, device) == ("onnx", "CPU")
    assert len(warnings) == 1
    assert re.fullmatch(
        r"AzureExecutionProvider was not used: it would leave (\d+) of \1 nodes \(100 %\) of the vision tower to the "
        r"CPU, (\d+) of \2 matrix products among them\.",
        warnings[0],
    )


@pytest.mark.usefixtures("tower")
def test_a_named_provider_is_used_and_its_share_is_in_the_verdict(pair) -> None:
    options = {"n_ctx": 512, "threads": 1, "onnx_provider": AZURE}
    with Guard.load(pair.text, pair.mmproj, **options) as guard:
        verdict = guard.classify(image=PICTURE, prompt="Look")
    assert (verdict.vision_backend, verdict.devices.vision) == ("onnx", "Azure")
    assert any(re.match(r"AzureExecutionProvider left (\d+) of \1 nodes \(100 %\)", text) for text in verdict.warnings)


@pytest.mark.usefixtures("tower", "azure_as_gpu")
@pytest.mark.parametrize("options", [{"device": "cpu"}, {"gpu_layers": 0}, {"vision_device": "CPU"}])
def test_no_provider_for_gpus_if_the_cpu_alone_was_asked_for(pair, options: dict[str, object]) -> None:
    assert "AzureExecutionProvider" not in str(taken_by_auto(pair, **options))


@pytest.mark.usefixtures("tower")
def test_auto_takes_a_provider_that_computes_all_products(pair, monkeypatch) -> None:
    """Shape arithmetic on the CPU is usual for CUDA's. The first of two providers does not start."""
    made = {}

    class Session(OnnxRuntimeSession):
        def __init__(self, path, *, threads: int, provider: str = CPU_PROVIDER, keep: object) -> None:
            made[provider] = self
            if provider == "CUDAExecutionProvider":
                raise NativeLibraryError("ONNX Runtime could not initialize CUDAExecutionProvider.")
            super().__init__(path, threads=threads, keep=keep)
            self.device = provider.removesuffix("ExecutionProvider")
            self.share = ProviderShare(255, 45, 50, 0)

    monkeypatch.setattr(vision_backend, "gpu_providers", lambda: ("CUDAExecutionProvider", "DmlExecutionProvider"))
    monkeypatch.setattr(vision_backend, "OnnxRuntimeSession", Session)
    assert taken_by_auto(pair) == (
        "onnx",
        "Dml",
        (
            "CUDAExecutionProvider was not used: ONNX Runtime could not initialize CUDAExecutionProvider.",
            f"DmlExecutionProvider left {ProviderShare(255, 45, 50, 0)}.",
        ),
    )
    # Not beyond the memory limit, and not before a GPU on ggml.
    assert taken_by_auto(pair, memory_limit=2**20)[0] == "ggml"
    file = GgufHeader(pair.mmproj)
    config = read_mmproj_config(file)
    assert choose_backend(VisionOptions(), file, config, gpu=True, memory_budget=None) == Chosen("ggml")


@pytest.mark.usefixtures("tower")
def test_overflow_on_a_provider_does_not_blame_the_file(pair, monkeypatch) -> None:
    with closing(load(pair, onnx_provider=AZURE)) as engine:
        run = OnnxRuntimeSession.run
        monkeypatch.setattr(OnnxRuntimeSession, "run", lambda *arguments: run(*arguments) * np.float32(np.inf))
        with pytest.raises(ComputeError, match=r"^overflow on Azure: the ONNX tower's features are not all finite"):
            engine.encode_image(PICTURE)


def test_a_share_as_text() -> None:
    expected = "45 of 255 nodes (18 %) of the vision tower to the CPU, 12 of 50 matrix products among them"
    assert str(ProviderShare(255, 45, 50, 12)) == expected


def test_providers_are_those_that_the_library_has(monkeypatch) -> None:
    assert not set(onnxruntime_session.gpu_providers()) & {CPU_PROVIDER, AZURE}
    assert set(GPU_PROVIDERS) <= set(onnxruntime.get_all_providers())
    monkeypatch.setattr(onnxruntime_session, "GPU_PROVIDERS", (AZURE, "CUDAExecutionProvider"))
    assert onnxruntime_session.gpu_providers() == tuple(
        name for name in (AZURE, "CUDAExecutionProvider") if name in onnxruntime.get_available_providers()
    )
