"""The mmproj file: types by the recipes, bytes of ggml's reference, and a pair that agrees with the f16 pair."""

import gguf
import numpy as np
import pytest
from gguf_edit import GgufFile
from quantize_reference import FILE_KINDS, ggml_encode, keys, relative_error, tensors, values
from tiny_checkpoint import IMAGE_TOKEN_ID

from visionward import Engine
from visionward.convert import ConvertedPair
from visionward.errors import ModelFileError, QuantizeError
from visionward.quant.quantize import quantize_file
from visionward.quant.tensor_types import (
    EMBEDDING_TABLES,
    RECIPES,
    TENSOR_TYPES,
    UNQUANTIZED,
    Layers,
    TypeOverride,
    element_type,
    fitting_type,
)

Type = gguf.GGMLQuantizationType
TOKENS = [500, IMAGE_TOKEN_ID, *range(40, 56)]

# Relative error of the logits against the f16 pair, with an image and both files in the type: 1.3 times what was
# measured with random weights, which suffer more than trained ones.
BOUNDS = {
    "q4_0": 0.3,
    "q4_k_s": 0.24,
    "q4_k_m": 0.24,
    "q5_k_m": 0.14,
    "q6_k": 0.08,
    "q8_0": 0.035,
    "iq4_xs": 0.26,
    "f16": 1e-6,
    "bf16": 0.01,
}


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_bytes_are_those_of_ggml(f16_pair, quantized, kind):
    source = values(f16_pair.mmproj)
    for name, (element, stored) in tensors(quantized(kind).mmproj).items():
        rows = source[name].reshape(-1, source[name].shape[-1])
        expected = rows.tobytes() if element == Type.F32 else ggml_encode(rows, element)
        assert stored.tobytes() == expected, name


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_types(quantized, kind):
    recipe = RECIPES[kind]
    for name, (element, stored) in tensors(quantized(kind).mmproj).items():
        if stored.ndim == 1:
            assert element == Type.F32
        elif name in EMBEDDING_TABLES or name == "v.patch_embd.weight":
            assert element in (Type.F16, Type.BF16)
        elif name.startswith(("v.", "mm.")):
            assert element == (recipe.matrix if kind in ("f16", "bf16") else Type.Q8_0)
        else:
            # Layer 1 of 2 is in the last eighth, which rounds to one layer; the first rounds to none.
            richer = recipe.larger.get(name.split(".")[3])
            applies = richer is not None and richer.layers.holds(int(name.split(".")[2]), 2)
            assert element == (richer.element_type if richer and applies else recipe.matrix), name


def test_error_falls_with_bits(f16_pair, quantized):
    source = values(f16_pair.mmproj)
    name = "cross.blk.0.ffn_up.weight"
    errors = {kind: relative_error(values(quantized(kind).mmproj)[name], source[name]) for kind in FILE_KINDS}
    ordered = [errors[kind] for kind in ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")]
    assert ordered == sorted(ordered)
    assert errors["f16"] == 0
    assert errors["q8_0"] < 0.01
    assert 0.05 < errors["q4_k_m"] < 0.1


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_keys(f16_pair, quantized, kind):
    before, after = keys(f16_pair.mmproj), keys(quantized(kind).mmproj)
    assert after.pop("general.file_type") == int(RECIPES[kind].file_type)
    before.pop("general.file_type")
    assert after == before
    fields = gguf.GGUFReader(f16_pair.mmproj).fields, gguf.GGUFReader(quantized(kind).mmproj).fields
    assert {name: field.types for name, field in fields[0].items()} == {
        name: field.types for name, field in fields[1].items()
    }


def test_lists_of_text_are_kept(f16_pair, tmp_path):
    """gguf-py's tools add some (general.tags, general.languages)."""
    reader = gguf.GGUFReader(f16_pair.mmproj)
    writer = gguf.GGUFWriter(tmp_path / "tagged.gguf", "clip")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_tags(["guard", "vision"])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    GgufFile(tmp_path / "tagged.gguf").write(tmp_path / "tagged.gguf")
    quantize_file(tmp_path / "tagged.gguf", tmp_path / "m.gguf", "q8_0", threads=1)
    assert keys(tmp_path / "m.gguf")["general.tags"] == ["guard", "vision"]


@pytest.fixture(scope="module")
def f16_logits(f16_pair):
    return logits_of(f16_pair)


def logits_of(pair):
    image = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    engine = Engine(pair.text, pair.mmproj, threads=1, n_ctx=64, gpu_layers=0)
    try:
        return engine.logits(TOKENS, image).logits
    finally:
        engine.close()


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_pair_agrees_with_f16(quantized, f16_logits, kind):
    assert relative_error(logits_of(quantized(kind)), f16_logits) <= BOUNDS[kind]


def test_types_by_name(f16_pair, tmp_path):
    overrides = [TypeOverride.parse(r"v\.blk\..*=q4_k"), TypeOverride.parse("position_embd=f32")]
    result = quantize_file(f16_pair.mmproj, tmp_path / "m.gguf", "q8_0", threads=1, overrides=overrides)
    types = {name: kind.name for name, (kind, _) in tensors(tmp_path / "m.gguf").items()}
    assert types["v.blk.0.ffn_up.weight"] == "Q4_K"
    assert types["v.global.blk.0.ffn_up.weight"] == "Q8_0"
    assert types["v.position_embd.weight"] == "F32"
    assert types["v.blk.0.ffn_up.bias"] == "F32"
    assert result.types["Q4_K"] == 24


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_whatever_type_is_asked_for_loads(f16_pair, tmp_path, kind):
    target = tmp_path / "m.gguf"
    override = TypeOverride.parse(f".*={kind}")
    result = quantize_file(f16_pair.mmproj, target, "q4_0", threads=1, overrides=[override])
    assert np.isfinite(logits_of(ConvertedPair(f16_pair.text, target))).all()
    tables = {name: found.name for name, (found, _) in tensors(target).items() if name in EMBEDDING_TABLES}
    matrix = tensors(target)["cross.blk.0.attn_q.weight"][0]
    assert matrix == override.element_type
    if override.element_type in UNQUANTIZED:
        assert set(tables.values()) == {override.element_type.name}
        assert not any("was ignored" in note for note in result.notes)
    else:
        assert set(tables.values()) == {"F16"}
        (note,) = (note for note in result.notes if "was ignored" in note)
        assert note.startswith(f".*={kind} was ignored for 4 matrices that cannot have this type: v.position_embd.wei")


def test_a_type_that_nothing_can_have(f16_pair, tmp_path):
    overrides = [TypeOverride.parse("position_embd=q4_0")]
    with pytest.raises(QuantizeError, match=r"matches only tensors of .* that do not support Q4_0") as error:
        quantize_file(f16_pair.mmproj, tmp_path / "m.gguf", "q8_0", threads=1, overrides=overrides)
    assert "v.position_embd.weight, v.tile_position_embd.weight can be f32, f16 or bf16" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_would_not_load_is_not_kept(f16_pair, tmp_path, monkeypatch):
    monkeypatch.setattr("visionward.quant.mmproj_quantizer.supports", lambda *_: True)
    overrides = [TypeOverride.parse(".*=q4_0")]
    with pytest.raises(ModelFileError, match=r"v\.position_embd\.weight has the unsupported type Q4_0"):
        quantize_file(f16_pair.mmproj, tmp_path / "m.gguf", "q8_0", threads=1, overrides=overrides)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0"])
def test_threads_make_no_difference(f16_pair, quantized, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("visionward.runtime.ggml.row_encoding._PIECE", 1024)
    quantize_file(f16_pair.mmproj, tmp_path / "m.gguf", kind, threads=3)
    assert (tmp_path / "m.gguf").read_bytes() == quantized(kind).mmproj.read_bytes()


def test_chunks_make_no_difference(f16_pair, quantized, tmp_path, monkeypatch):
    monkeypatch.setattr("visionward.quant.mmproj_quantizer.rows_at_once", lambda _length: 7)
    quantize_file(f16_pair.mmproj, tmp_path / "m.gguf", "q4_k_m", threads=1)
    assert (tmp_path / "m.gguf").read_bytes() == quantized("q4_k_m").mmproj.read_bytes()


@pytest.mark.parametrize(
    ("wanted", "row_length", "expected"),
    [
        (Type.Q4_K, 512, Type.Q4_K),
        (Type.Q4_K, 96, Type.Q5_0),
        (Type.Q5_K, 96, Type.Q5_1),
        (Type.Q6_K, 96, Type.Q8_0),
        (Type.IQ4_XS, 96, Type.IQ4_NL),
        (Type.Q4_K, 100, Type.F16),
        (Type.Q8_0, 588, Type.F16),
        (Type.BF16, 3, Type.BF16),
    ],
)
def test_nearest_type(wanted, row_length, expected):
    assert fitting_type(wanted, row_length) == expected


def test_layers_with_more_bits_are_llama_cpps():
    """What llama-quantize's use_more_bits gives for 8 and for 32 layers."""
    assert [i for i in range(8) if Layers.SPREAD.holds(i, 8)] == [0, 3, 6, 7]
    assert [i for i in range(32) if Layers.SPREAD.holds(i, 32)] == [
        *range(4),
        *range(6, 28, 3),
        *range(28, 32),
    ]
    assert [i for i in range(8) if Layers.FIRST.holds(i, 8)] == [0]
    assert all(Layers.ALL.holds(i, 8) for i in range(8))


def test_an_importance_matrix_changes_what_iq4_xs_gives():
    name, shape = "cross.blk.0.ffn_down.weight", (256, 512)
    assert element_type(RECIPES["iq4_xs"], name, shape, 8) == Type.Q5_K
    assert element_type(RECIPES["iq4_xs"], name, shape, 8, importance=True) == Type.IQ4_XS


@pytest.mark.parametrize(("bits", "kind"), [(0x7C00, "q4_0"), (0x7E00, "f16"), (0xFC00, "bf16")])
def test_numbers_that_are_none(f16_pair, tmp_path, bits, kind):
    file = GgufFile(f16_pair.mmproj)
    weight = file.tensor("cross.blk.1.attn_q.weight")
    weight.data = bits.to_bytes(2, "little") + weight.data[2:]
    file.write(tmp_path / "bad.gguf")
    with pytest.raises(QuantizeError, match=r"cross\.blk\.1\.attn_q\.weight has values that are not finite"):
        quantize_file(tmp_path / "bad.gguf", tmp_path / "m.gguf", kind, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
