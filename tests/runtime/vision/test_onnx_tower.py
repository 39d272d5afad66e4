"""The ONNX tower in both engines: features and logits against Transformers 4.53.3, and odd shapes against ggml."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf_edit import GgufFile
from image_variants import CASES, ImageCase
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.convert.onnx_file import export_tower
from visionward.formats.mmproj_format import TILE_TOKENS_MULTIPLE
from visionward.machine.processor import read_processor
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision import onnxruntime_session, openvino_session, vision_backend
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession
from visionward.runtime.vision.openvino_session import OpenVinoSession, best_precision

FIXTURE = np.load(Path(__file__).parents[2] / "reference" / "image_logits.npz")
HAS_FAST_BF16 = best_precision("f16") == "bf16"


@dataclass(frozen=True)
class Variant:
    """An engine, the type of the weights, what OpenVINO computes in, and how far the features may be off."""

    backend: str
    weight_type: str
    precision: str
    bound: float

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.backend, self.weight_type, self.precision)))


# Measured, the worst of all cases: f32 8.4e-7, f16 4.6e-4, int8 1.3e-2, which grows with the width (7.7e-3 at 64,
# 1.9e-2 at 1280); bf16 7.2e-3 at a width of 64.
VARIANTS = (
    Variant("onnx", "f32", "", 5e-6),
    Variant("onnx", "f16", "", 1e-3),
    Variant("onnx", "int8", "", 1.6e-2),
    Variant("openvino", "f32", "f32", 5e-6),
    Variant("openvino", "f16", "f32", 1e-3),
    Variant("openvino", "f16", "bf16", 2e-2),
    Variant("openvino", "int8", "f32", 1.6e-2),
)
# What the decoder adds, whose own cache is float16: measured 1.1e-3.
DECODER_BOUND = 2e-3


def relative_error(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="module")
def onnx_engine_of(pair_of, tower_of) -> Iterator[Callable[[Variant, str], Engine]]:
    engines: dict[tuple[Variant, str], Engine] = {}

    def load(variant: Variant, name: str) -> Engine:
        if (variant, name) not in engines:
            pair = pair_of(name, "f32")
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(vision_backend, "best_precision", lambda _: variant.precision)
                engines[variant, name] = Engine(
                    pair.text,
                    pair.mmproj,
                    n_ctx=256,
                    threads=1,
                    vision_backend=variant.backend,
                    onnx_tower=tower_of(name, variant.weight_type),
                )
        return engines[variant, name]

    yield load
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_features_and_logits(onnx_engine_of, variant: Variant, case: ImageCase) -> None:
    if variant.precision == "bf16" and not HAS_FAST_BF16:
        pytest.skip("on this processor a layer in bf16 may take minutes")
    engine = onnx_engine_of(variant, case.checkpoint)
    assert engine.vision_backend == variant.backend
    result = engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio))
    logits, features = FIXTURE[f"{case.name}.logits"], FIXTURE[f"{case.name}.features"]
    assert result.features is not None
    assert result.features.shape == features.shape
    assert relative_error(result.features, features) <= variant.bound
    assert relative_error(result.logits, logits) <= DECODER_BOUND + variant.bound
    ordered = np.sort(logits, axis=-1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * np.abs(result.logits - logits).max(axis=-1)
    assert clear.mean() > 0.5
    assert (result.logits.argmax(-1) == logits.argmax(-1))[clear].all()


@pytest.mark.parametrize(
    ("features", "limit", "vnni"),
    [
        (("avx2", "avx512_vnni"), "", True),
        (("avx2", "avx_vnni"), "avx2_vnni", True),
        (("avx2", "avx512_vnni"), "AVX512_CORE", False),
        (("avx2",), "", False),
        (None, "", False),
    ],
)
def test_openvino_multiplies_integers_only_where_they_add_up(tower_of, monkeypatch, features, limit, vnni) -> None:
    """Without VNNI, pairs of products overflow 16 bits on x86."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    processor = replace(read_processor(), features=features)
    monkeypatch.setattr(openvino_session, "read_processor", lambda: processor)
    session = OpenVinoSession(tower_of("plain", "int8"), threads=1, precision="f32")
    nodes = [node.get_rt_info() for node in session._compiled.get_runtime_model().get_ops()]
    session.close()
    products = [node for node in nodes if node["layerType"].astype(str).startswith("FullyConnected")]
    integers = [node for node in products if node["primitiveType"].astype(str).lower().endswith("i8")]
    layers = 6
    assert (len(products), len(integers)) == (6 * layers + 2, 5 * layers if vnni else 0)


@pytest.mark.parametrize(
    ("model", "features", "limit", "wanted"),
    [
        ("Intel(R) Xeon(R)", ("avx512_bf16", "amx_bf16"), "", "bf16"),
        ("Intel(R) Xeon(R)", ("avx512_bf16", "amx_bf16"), "AVX512_CORE_BF16", "f32"),
        ("Intel(R) Xeon(R)", ("avx512_bf16",), "", "f32"),
        ("AMD Ryzen 9 7950X", ("avx512_bf16",), "", "bf16"),
        ("AMD Ryzen 9 7950X", ("avx512_bf16",), "avx512_core_bf16", "bf16"),
        ("AMD Ryzen 9 7950X", ("avx512_bf16",), "AVX512_CORE_VNNI", "f32"),
        ("AMD Ryzen 9 5950X", ("avx2",), "", "f32"),
        ("AMD Ryzen 9 7950X", None, "", "f32"),
    ],
)
def test_openvino_computes_in_bf16_where_it_is_fast(monkeypatch, model, features, limit, wanted) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    processor = replace(read_processor(), model=model, features=features)
    monkeypatch.setattr(openvino_session, "read_processor", lambda: processor)
    assert [best_precision(weights) for weights in ("f16", "f32", "int8")] == [wanted, wanted, "f32"]


@pytest.mark.parametrize("exact", [True, False])
def test_onnx_runtime_is_told_to_add_exactly_only_where_it_would_not(tower_of, monkeypatch, exact) -> None:
    """Told so on a processor with VNNI, it took twice as long."""
    monkeypatch.setattr(onnxruntime_session, "adds_bytes_exactly", lambda: exact)
    session = OnnxRuntimeSession(tower_of("plain", "int8"), threads=1)
    options = session._session.get_session_options()
    with pytest.raises(RuntimeError, match="x64quantprecision") if exact else nullcontext():
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    session.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell whether the processor has VNNI")
def test_products_of_bytes_are_probed() -> None:
    features = read_processor().features or ()
    expected = any("vnni" in feature for feature in features) or not {"avx2", "avx512bw"} & set(features)
    assert onnxruntime_session.adds_bytes_exactly() is expected


# A tower of one tile, one whose features are few, tiles of one patch.
SHAPES = {
    "one tile": {"seed": 22, "max_tiles": 1},
    "few layers": {"seed": 23, "intermediate": (3,), "global_layers": 1, "max_tiles": 3},
    "one patch": {"seed": 24, "tile_size": 14},
}


def exact_and_onnx_agree(pair: ConvertedPair, backend: str) -> None:
    options = {"n_ctx": 64, "threads": 1}
    with (
        closing(Engine(pair.text, pair.mmproj, exact=True, **options)) as exact,
        closing(Engine(pair.text, pair.mmproj, vision_backend=backend, **options)) as engine,
    ):
        assert (exact.vision_backend, engine.vision_backend) == ("ggml", backend)
        vision = engine.config.vision
        for high, wide in vision.aspect_ratios:
            rng = np.random.default_rng(high * 10 + wide)
            shape = (high * wide, 3, vision.tile_size, vision.tile_size)
            tiles = Tiles(rng.standard_normal(shape).astype(np.float32), (high, wide))
            assert relative_error(engine.encode_image(tiles), exact.encode_image(tiles)) < 5e-6


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_shapes_equal_exact_ggml(tmp_path: Path, monkeypatch, backend: str, shape: str) -> None:
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "f32")
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny", **SHAPES[shape])
    pair = convert_checkpoint(checkpoint, tmp_path, text_type="f32", mmproj_type="f32", onnx_type="f32")
    exact_and_onnx_agree(pair, backend)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_pixels_behind_the_last_whole_patch(pair_of, tmp_path: Path, monkeypatch, backend: str) -> None:
    """The converter writes no such file, readers take one."""
    monkeypatch.setattr(vision_backend, "best_precision", lambda _: "f32")
    file = GgufFile(pair_of("plain", "f32").mmproj)
    assert file.key("clip.vision.image_size").decoded == 56
    file.set("clip.vision.image_size", 60)
    mmproj = file.write(tmp_path / "mmproj-cut-F32.gguf")
    export_tower(mmproj, weight_type="f32")
    exact_and_onnx_agree(ConvertedPair(pair_of("plain", "f32").text, mmproj), backend)


def test_every_tile_has_padding_tokens() -> None:
    """So no attention of padding queries is ever without rows: no square is one less than a multiple of eight."""
    assert all((side**2 + 1) % TILE_TOKENS_MULTIPLE for side in range(1000))
