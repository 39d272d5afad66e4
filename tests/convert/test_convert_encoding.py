"""Element types and orders: golden bytes, ggml's own quantizer, bounds."""

import ctypes
import math

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import safetensors_bytes

from visionward.convert.encoding import PlannedTensor, encode, encoded_chunks, projector_reorder, rope_reorder
from visionward.convert.model_config import RopeScaling
from visionward.convert.text_plan import rope_factors
from visionward.errors import CheckpointError
from visionward.formats.safetensors_reader import read_header
from visionward.quant.tensor_types import RECIPES, element_type
from visionward.runtime.ggml.row_encoding import encode_rows

F32, F16 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
BF16, Q8_0 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.Q8_0

BF16_ROW = np.array([[0x3F80, 0xC000, 0x0000, 0x3EAB]], "<u2")  # 1, -2, 0, 0.333984375


@pytest.mark.parametrize(
    ("rows", "dtype", "target", "expected"),
    [
        (BF16_ROW, "BF16", BF16, "803f00c00000ab3e"),
        (BF16_ROW, "BF16", F16, "003c00c000005835"),
        (BF16_ROW, "BF16", F32, "0000803f000000c0000000000000ab3e"),
        (np.array([[1.0, -2.0]], "<f2"), "F16", F32, "0000803f000000c0"),
        (np.array([[1.0, -2.0]], "<f2"), "F16", F16, "003c00c0"),
        (np.array([[1.0, 1.00390625]], "<f4"), "F32", BF16, "803f803f"),  # a tie goes to the even neighbour
    ],
)
def test_golden_bytes(rows, dtype, target, expected):
    assert encode("t", rows, dtype, target).tobytes().hex() == expected


def test_every_bfloat16_as_float16_equals_ggml():
    bits = np.arange(2**16, dtype=np.uint16)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    fits = np.abs(values) <= np.finfo(np.float16).max
    assert fits.sum() == 2 * (0x477F + 1)
    rows = bits[fits].reshape(2, -1)
    assert encode("t", rows, "BF16", F16).tobytes() == encode_rows(values[fits].reshape(2, -1), F16).tobytes()


def test_q8_0_golden_block():
    row = np.zeros((1, 32), np.float32)
    row[0, :3] = 127.0, -1.0, 63.5
    block = encode("t", row, "F32", Q8_0).tobytes()
    assert block[:5].hex() == "003c7fff40"  # scale 1.0 as f16, then 127, -1 and 63.5 rounded away from zero
    assert block[5:] == bytes(29)


def ggml_q8_0(values: np.ndarray) -> bytes:
    library = llama_cpp.llama_cpp._lib
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    rows, columns = values.shape
    out = np.empty(rows * columns // 32 * 34, np.uint8)
    size = quantize(int(Q8_0), values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert size == out.nbytes
    return out.tobytes()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-30, 20), rows=st.integers(1, 5), blocks=st.integers(1, 4))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_q8_0_equals_ggml(seed, scale, rows, blocks):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, 32 * blocks)) * 2.0**scale).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0
    assert encode("t", values, "F32", Q8_0).tobytes() == ggml_q8_0(values)


@pytest.mark.parametrize(("value", "target"), [(65536.0, F16), (-1e30, F16), (65504.0 * 128, Q8_0)])
def test_values_beyond_the_type_are_refused(value, target):
    rows = np.zeros((1, 32), np.float32)
    rows[0, 7] = value
    with pytest.raises(CheckpointError, match=rf"'model.w' has the value .*, and the largest {target.name} value is"):
        encode("model.w", rows, "F32", target)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("target", [F32, F16, BF16])
def test_values_that_are_not_finite_are_refused(bad, target):
    with pytest.raises(CheckpointError, match="has values that are not finite"):
        encode("w", np.array([[0.0, bad]], np.float32), "F32", target)


@given(heads=st.integers(1, 4), half=st.integers(1, 8), columns=st.integers(1, 5))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rope_reorder_makes_pairs_neighbours(heads, half, columns):
    rows = np.arange(heads * 2 * half * columns, dtype=np.float32).reshape(-1, columns)
    out = rope_reorder(2 * half).apply(rows)
    for head in range(heads):
        for i in range(half):
            first = head * 2 * half
            np.testing.assert_array_equal(out[first + 2 * i], rows[first + i])
            np.testing.assert_array_equal(out[first + 2 * i + 1], rows[first + half + i])


def test_projector_reorder_golden():
    width, states = 2, 3
    # Column names: f0 f1, then feature d of state k at 2 + d * 3 + k.
    row = np.array([[0, 1, 100, 110, 120, 101, 111, 121]])
    assert projector_reorder(width, states).apply(row).tolist() == [[0, 1, 100, 101, 110, 111, 120, 121]]


def test_rope_factors_equal_llama_cpp_formula():
    head_width, theta, scaling = 128, 500000.0, RopeScaling(8.0, 1.0, 4.0, 8192)
    expected = []
    for i in range(0, head_width, 2):
        wave_length = 2 * math.pi * theta ** (i / head_width)
        if wave_length < 8192 / 4:
            expected.append(1.0)
        elif wave_length > 8192:
            expected.append(8.0)
        else:
            smooth = (8192 / wave_length - 1) / (4 - 1)
            expected.append(1 / ((1 - smooth) / 8 + smooth))
    factors = rope_factors(head_width, theta, scaling)
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0


def test_recipes():
    f16, q8 = RECIPES["f16"], RECIPES["q8_0"]
    assert element_type(f16, "v.blk.0.ln1.weight", (64,)) == F32
    assert element_type(q8, "v.patch_embd.weight", (64, 588)) == F16
    assert element_type(q8, "v.tile_position_embd.weight", (9, 4, 17, 64)) == F16
    assert element_type(q8, "token_embd.weight", (520, 256)) == Q8_0
    assert element_type(RECIPES["bf16"], "v.pre_tile_embd.weight", (9, 4, 64)) == BF16
    assert element_type(RECIPES["f32"], "v.pre_tile_embd.weight", (9, 4, 64)) == F32


def test_chunks_add_up_whatever_their_size(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((24, 32)).astype("<f4")
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"w": ("F32", values.shape, values.tobytes())}))
    stored = read_header(path)["w"]
    plan = PlannedTensor("w", (30, 32), Q8_0, stored, rope_reorder(8))
    whole = b"".join(chunk.tobytes() for chunk in encoded_chunks(plan))
    assert len(whole) == plan.nbytes
    padded = np.concatenate([rope_reorder(8).apply(values), np.zeros((6, 32), np.float32)])
    assert whole == ggml_q8_0(padded)
    monkeypatch.setattr("visionward.formats.safetensors_reader.CHUNK_BYTES", 1)
    seen = []
    pieces = [chunk.tobytes() for chunk in encoded_chunks(plan, lambda raw: seen.append(raw.tobytes()))]
    assert len(pieces) == 4
    assert b"".join(pieces) == whole
    assert b"".join(seen) == values.tobytes()
