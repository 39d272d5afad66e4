"""Gathering importance matrices: the numbers that go into the matrices, llama.cpp's file form, and their use."""

import contextlib
import ctypes
import json

import gguf
import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner
from gguf_edit import GgufFile
from PIL import Image
from quantize_reference import ggml_encode, keys, relative_error, tensors, values
from tiny_checkpoint import IMAGE_TOKEN_ID

from visionward import Engine
from visionward.cli.main import cli
from visionward.errors import ComputeError, ModelFileError, QuantizeError
from visionward.formats.imatrix_file import Statistics, read_imatrix, write_imatrix
from visionward.quant.activations import ActivationSums, compute_importance
from visionward.quant.quantize import quantize_file
from visionward.runtime.guard.samples import read_samples

TOKENS = [500, IMAGE_TOKEN_ID, *range(40, 56)]


def picture(width=90, height=50, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def observed(f16_pair):
    """Exactness to what went into every matrix, and the features, for one prompt with an image of two tiles."""
    found = {}
    for exact in (False, True):
        engine = Engine(f16_pair.text, f16_pair.mmproj, threads=1, n_ctx=64, gpu_layers=0, exact=exact)
        rows: dict[str, np.ndarray] = {}
        try:
            with engine.observed(lambda name, x, rows=rows: rows.update({name: x})):
                features = engine.logits(TOKENS, picture()).features
            before = len(rows)
            engine.logits(TOKENS, picture())
            assert len(rows) == before
        finally:
            engine.close()
        assert features is not None
        found[exact] = rows, features
    return found


def close(found, wanted, tolerance=2e-3):
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


def test_every_matrix_is_seen(f16_pair, observed):
    matrices = {
        name
        for path in (f16_pair.text, f16_pair.mmproj)
        for name, (_, data) in tensors(path).items()
        if data.ndim == 2 and "embd" not in name
    }
    for exact in (False, True):
        assert set(observed[exact][0]) == matrices | {"v.patch_embd.weight"}


@pytest.mark.parametrize("exact", [False, True])
def test_vision_tokens_go_into_keys_and_values(observed, exact):
    rows, features = observed[exact]
    for name in ("cross.blk.0.attn_k.weight", "cross.blk.1.attn_v.weight"):
        assert (rows[name] == features.reshape(-1, features.shape[-1])).all()


@pytest.mark.parametrize("exact", [False, True])
def test_inputs_are_those_of_the_formula(f16_pair, observed, exact):
    """Norms have a norm's statistics, and an MLP's second matrix takes what its first ones gave."""
    rows, _ = observed[exact]
    text, mmproj = values(f16_pair.text), values(f16_pair.mmproj)
    for weights, layer in ((text, "blk.0"), (text, "blk.3"), (mmproj, "cross.blk.0"), (mmproj, "cross.blk.1")):
        normed = rows[f"{layer}.ffn_gate.weight"]
        assert len(normed) == (len(TOKENS) if weights is text else len(TOKENS) - 1)
        np.testing.assert_allclose(np.square(normed / weights[f"{layer}.ffn_norm.weight"]).mean(1), 1, rtol=1e-3)
        gate, up = (normed @ weights[f"{layer}.{name}.weight"].T for name in ("ffn_gate", "ffn_up"))
        close(rows[f"{layer}.ffn_down.weight"], gate / (1 + np.exp(-gate)) * up)
    for layer in ("v.blk.0", "v.global.blk.1"):
        normed = rows[f"{layer}.attn_q.weight"]
        plain = (normed - mmproj[f"{layer}.ln1.bias"]) / mmproj[f"{layer}.ln1.weight"]
        assert np.abs(plain.mean(1)).max() < 1e-3
        assert (rows[f"{layer}.attn_v.weight"] == normed).all()


def test_attention_outputs_are_those_of_the_exact_mode(observed):
    """The one input that is a view of a result that later nodes could overwrite."""
    fast, exact = observed[False][0], observed[True][0]
    real = len(fast["cross.blk.0.attn_k.weight"])
    for name in ("blk.2.attn_output.weight", "cross.blk.0.attn_output.weight", "v.global.blk.1.attn_out.weight"):
        rows = real if name.startswith("v.") else None
        close(fast[name][:rows], exact[name][:rows], 1e-2)


def test_sums_add_up():
    sums = ActivationSums()
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6]], np.float32)
    for rows in (a, b):
        sums("w", rows)
    sums("output.weight", a)
    assert list(sums.statistics) == ["w"]
    assert sums.statistics["w"].rows == 3
    assert sums.statistics["w"].sums.tolist() == [35, 56]
    with pytest.raises(ComputeError, match="input of w is not finite"):
        sums("w", np.array([[np.inf, 1]], np.float32))


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    Image.fromarray(picture()).save(folder / "a.png")
    lines = [
        {"image": "a.png", "prompt": "What is this?", "label": "unsafe", "categories": ["S10", "S9"]},
        {"image": "a.png", "prompt": "What is this?", "response": "A picture.", "label": "safe"},
        {"prompt": "No picture."},
    ]
    path = folder / "calibration.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def matrix_file(f16_pair, calibration, tmp_path_factory):
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    arguments = ["--model", f16_pair.text, "--mmproj", f16_pair.mmproj, "--data", calibration, "--out", path]
    result = CliRunner().invoke(cli, ["imatrix", *map(str, arguments), "--threads", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "3 prompts" in result.stdout
    return path


def test_every_frame_is_read(f16_pair, tmp_path):
    """What the guard would judge: an animation's frames, one prompt each."""
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    (tmp_path / "one.jsonl").write_text(json.dumps({"image": "moving.png", "prompt": "What is this?"}))
    with contextlib.closing(Engine(f16_pair.text, f16_pair.mmproj, threads=1, n_ctx=512, gpu_layers=0)) as engine:
        assert compute_importance(engine, read_samples(tmp_path / "one.jsonl")).prompts == 3


def test_file_has_llama_cpps_form(matrix_file):
    found = keys(matrix_file)
    assert found["general.type"] == "imatrix"
    assert found["imatrix.datasets"] == ["calibration.jsonl"]
    assert found["imatrix.chunk_count"] == 3
    assert found["imatrix.chunk_size"] > 10
    assert "general.architecture" not in found
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(matrix_file).tensors}
    assert {tensor.tensor_type for tensor in stored.values()} == {gguf.GGMLQuantizationType.F32}
    sums, counts = stored["blk.1.ffn_down.weight.in_sum2"], stored["blk.1.ffn_down.weight.counts"]
    assert sums.shape.tolist() == [512, 1]
    assert counts.shape.tolist() == [1, 1]
    # Every layer sees every row; the answers of the two samples that have a label are read, too.
    rows = {name: tensor.data.item() for name, tensor in stored.items() if name.endswith(".counts")}
    assert rows["blk.0.attn_q.weight.counts"] == rows["blk.3.ffn_down.weight.counts"] > 100
    assert rows["cross.blk.0.attn_k.weight.counts"] == 2 * 2 * 17


class GgufInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def test_ggmls_own_reader_takes_the_file(matrix_file):
    """What llama-quantize reads it with (common/imatrix-loader.cpp), key by key."""
    library = llama_cpp.llama_cpp._lib
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, GgufInitParams]
    for name, result, more in (
        ("gguf_get_n_tensors", ctypes.c_int64, []),
        ("gguf_find_key", ctypes.c_int64, [ctypes.c_char_p]),
        ("gguf_get_val_u32", ctypes.c_uint32, [ctypes.c_int64]),
        ("gguf_get_arr_str", ctypes.c_char_p, [ctypes.c_int64, ctypes.c_size_t]),
        ("gguf_find_tensor", ctypes.c_int64, [ctypes.c_char_p]),
        ("gguf_free", None, []),
    ):
        getattr(library, name).restype = result
        getattr(library, name).argtypes = [ctypes.c_void_p, *more]
    file = library.gguf_init_from_file(str(matrix_file).encode(), GgufInitParams(no_alloc=True))
    assert file
    assert library.gguf_get_n_tensors(file) == 2 * len(read_imatrix(matrix_file).importance)
    assert library.gguf_get_val_u32(file, library.gguf_find_key(file, b"imatrix.chunk_count")) == 3
    assert library.gguf_get_val_u32(file, library.gguf_find_key(file, b"imatrix.chunk_size")) > 10
    datasets = library.gguf_find_key(file, b"imatrix.datasets")
    assert library.gguf_get_arr_str(file, datasets, 0) == b"calibration.jsonl"
    assert library.gguf_find_tensor(file, b"blk.0.attn_q.weight.in_sum2") >= 0
    library.gguf_free(file)


def test_a_failing_sample_is_named(f16_pair, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "seven", "image": "missing.png", "prompt": "x"}')
    engine = Engine(f16_pair.text, f16_pair.mmproj, threads=1, n_ctx=64, gpu_layers=0)
    try:
        with pytest.raises(QuantizeError, match=r"sample seven: .*missing\.png"):
            compute_importance(engine, read_samples(tmp_path / "c.jsonl"))
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m", "iq4_xs"])
def test_mmproj_is_quantized_with_it(f16_pair, matrix_file, tmp_path, kind):
    target = tmp_path / "m.gguf"
    result = quantize_file(f16_pair.mmproj, target, kind, imatrix=matrix_file, threads=1)
    source, matrix = values(f16_pair.mmproj), read_imatrix(matrix_file).importance
    for name, (element, stored) in tensors(target).items():
        if element.name.startswith(("Q", "IQ")):
            rows = source[name].reshape(-1, source[name].shape[-1])
            assert stored.tobytes() == ggml_encode(rows, element, matrix[name]), name
    assert not result.notes[1:]
    found = keys(target)
    assert found["quantize.imatrix.file"] == "imatrix.gguf"
    assert found["quantize.imatrix.dataset"] == "calibration.jsonl"
    assert found["quantize.imatrix.entries_count"] == len(matrix)
    assert found["quantize.imatrix.chunks_count"] == 3


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m", "iq4_xs"])
def test_text_is_quantized_with_it(f16_pair, quantized, matrix_file, tmp_path, kind):
    """Weighted by what goes in, the products come nearer to those of the f16 file."""
    target = tmp_path / "t.gguf"
    result = quantize_file(f16_pair.text, target, kind, imatrix=matrix_file, threads=1)
    assert "no statistics for 2 quantized matrices: output.weight, token_embd.weight" in result.notes[0]
    assert keys(target)["quantize.imatrix.chunks_count"] == 3
    matrix, source = read_imatrix(matrix_file).importance, values(f16_pair.text)
    weighted, plain = values(target), values(quantized(kind).text)
    types, plain_types = tensors(target), tensors(quantized(kind).text)
    compared = 0
    for name, importance in matrix.items():
        if name in source and types[name][0] == plain_types[name][0] != gguf.GGMLQuantizationType.Q6_K:
            errors = [(np.square(found[name] - source[name]) * importance).sum() for found in (weighted, plain)]
            assert errors[0] < errors[1], name
            compared += 1
    assert compared > 15


def test_columns_without_any_activity(f16_pair, matrix_file, tmp_path):
    """A column that is always zero, or a matrix that sees only zeros, must not end in numbers that are none."""
    statistics = {
        name: Statistics(np.zeros(importance.size) if "ffn" in name else importance.astype(np.float64), 1)
        for name, importance in read_imatrix(matrix_file).importance.items()
    }
    for gathered in statistics.values():
        gathered.sums[:64] = 0
    write_imatrix(tmp_path / "i.gguf", statistics, dataset="zeros", samples=1, sample_tokens=1)
    for kind in ("q4_0", "q4_k_m", "iq4_xs", "q6_k"):
        for source in (f16_pair.text, f16_pair.mmproj):
            quantize_file(source, tmp_path / "q.gguf", kind, imatrix=tmp_path / "i.gguf", threads=1, overwrite=True)
            wanted = values(source)
            for name, found in values(tmp_path / "q.gguf").items():
                assert relative_error(found, wanted[name]) < 0.2, name


def test_files_that_are_no_importance_matrix(f16_pair, tmp_path):
    target = tmp_path / "t.gguf"
    with pytest.raises(QuantizeError, match="not an importance matrix in GGUF format"):
        quantize_file(f16_pair.text, target, "q4_0", imatrix=f16_pair.mmproj)
    (tmp_path / "legacy.dat").write_bytes(b"\x01\x00\x00\x00")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        quantize_file(f16_pair.text, target, "q4_0", imatrix=tmp_path / "legacy.dat")
    with pytest.raises(QuantizeError, match="has no effect on bf16"):
        quantize_file(f16_pair.text, target, "bf16", imatrix=f16_pair.mmproj)
    other = tmp_path / "other.gguf"
    for statistics, message in (
        ({"blk.99.attn_q.weight": Statistics(np.ones(256), 1)}, "no statistics for any matrix"),
        ({"blk.0.attn_q.weight": Statistics(np.ones(64), 1)}, "has 64 columns for blk.0.attn_q.weight"),
        ({"blk.0.attn_q.weight": Statistics(np.full(256, np.nan), 1)}, "are not finite"),
    ):
        write_imatrix(other, statistics, dataset="x", samples=1, sample_tokens=1, overwrite=True)
        with pytest.raises(QuantizeError, match=message):
            quantize_file(f16_pair.text, target, "q4_0", imatrix=other)
    empty = GgufFile(other)
    empty.tensors = []
    with pytest.raises(QuantizeError, match="has no statistics"):
        quantize_file(f16_pair.text, target, "q4_0", imatrix=empty.write(other))
    assert not target.exists()
