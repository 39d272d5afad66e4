"""The text file is what llama.cpp's quantizer makes, and stock llama.cpp loads it."""

import ctypes
import os

import gguf
import llama_cpp
import numpy as np
import pytest
from gguf_edit import GgufFile
from llama_text import text_logits
from progress_reports import stages
from quantize_reference import FILE_KINDS, keys, relative_error, tensors
from tiny_checkpoint import VOCABULARY, write_tiny_checkpoint

from visionward.convert import convert_checkpoint
from visionward.errors import ModelFileError, OutputError, QuantizeError
from visionward.quant.quantize import quantize_file
from visionward.quant.tensor_types import RECIPES, TypeOverride

IDS = np.random.default_rng(0).integers(0, VOCABULARY, 24).astype(np.int32)

# Relative error of the logits against the f16 file, 1.3 times what was measured. Random weights suffer more than
# trained ones: each layer multiplies the error of those before.
BOUNDS = {
    "q4_0": 0.55,
    "q4_k_s": 0.43,
    "q4_k_m": 0.45,
    "q5_k_m": 0.26,
    "q6_k": 0.14,
    "q8_0": 0.05,
    "iq4_xs": 0.5,
    "f16": 1e-6,
    "bf16": 0.02,
}


def stock(source, target, kind):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(RECIPES[kind].file_type)
    params.nthread = 1
    assert llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) == 0


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_bytes_are_those_of_llama_cpp(f16_pair, quantized, tmp_path, kind):
    stock(f16_pair.text, tmp_path / "stock.gguf", kind)
    # Which copies the digests of its source.
    GgufFile(tmp_path / "stock.gguf").write(tmp_path / "stock.gguf")
    assert quantized(kind).text.read_bytes() == (tmp_path / "stock.gguf").read_bytes()


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_stock_llama_cpp_agrees_with_f16(f16_pair, quantized, kind):
    error = relative_error(text_logits(quantized(kind).text, IDS), text_logits(f16_pair.text, IDS))
    assert error <= BOUNDS[kind]


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_keys_and_sizes(f16_pair, quantized, kind):
    path = quantized(kind).text
    before, after = keys(f16_pair.text), keys(path)
    assert after["general.file_type"] == int(RECIPES[kind].file_type)
    assert {key: after[key] for key in before if key != "general.file_type"} == {
        key: value for key, value in before.items() if key != "general.file_type"
    }
    stored = 0
    for tensor in gguf.GGUFReader(path).tensors:
        block, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        assert tensor.n_bytes == tensor.n_elements // block * size
        stored += tensor.n_bytes + -tensor.n_bytes % 32
    header = gguf.GGUFReader(path).data_offset
    assert path.stat().st_size == header + stored


def test_report_and_progress(f16_pair, tmp_path):
    reports = []
    target = tmp_path / "t.gguf"
    result = quantize_file(f16_pair.text, target, "Q4_K_M", threads=1, on_progress=reports.append)
    reports = [report for report in reports if report.stage != "checking file"]  # skipped if done before
    assert stages(reports) == ["quantizing", "checksums"]
    quantizing = [report for report in reports if report.stage == "quantizing"]
    assert {report.total for report in quantizing} == {result.source_nbytes}
    # The beginning, the beginning of every tensor, and the end.
    assert len(quantizing) == len(tensors(target)) + 2
    assert result.nbytes == sum(data.nbytes for _, data in tensors(target).values())
    assert list(result.types) == ["Q4_K", "Q6_K", "F32"]
    assert result.notes == ()
    assert [path.name for path in tmp_path.iterdir()] == ["t.gguf"]


def test_types_by_name(f16_pair, tmp_path):
    overrides = [TypeOverride.parse(r"blk\.0\.ffn_.*=q8_0"), TypeOverride.parse("ffn_=q5_k")]
    quantize_file(f16_pair.text, tmp_path / "t.gguf", "q4_0", threads=1, overrides=overrides)
    types = {name: kind.name for name, (kind, _) in tensors(tmp_path / "t.gguf").items()}
    assert types["blk.0.ffn_up.weight"] == types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.1.ffn_up.weight"] == "Q5_K"
    assert types["blk.1.attn_q.weight"] == "Q4_0"
    assert types["blk.0.ffn_norm.weight"] == "F32"


def test_rows_that_no_k_quant_holds(tmp_path):
    pair = convert_checkpoint(write_tiny_checkpoint(tmp_path / "odd", text_width=192), tmp_path)
    result = quantize_file(pair.text, tmp_path / "t.gguf", "q4_k_m", threads=1)
    assert any("rows of 192 values became Q5_0" in note for note in result.notes)
    assert not any("rows of 256" in note for note in result.notes)
    kinds = {kind.name for kind, _ in tensors(tmp_path / "t.gguf").values()}
    assert kinds == {"Q5_0", "Q8_0", "F32"}


def test_quantized_sources_are_refused_unless_allowed(quantized, tmp_path):
    source = quantized("q8_0").text
    with pytest.raises(QuantizeError, match=r"already quantized \(Q8_0\).*--allow-requantize"):
        quantize_file(source, tmp_path / "t.gguf", "q4_0", threads=1)
    assert not list(tmp_path.iterdir())
    result = quantize_file(source, tmp_path / "t.gguf", "q4_0", threads=1, allow_requantize=True)
    assert "Q4_0" in result.types


@pytest.mark.parametrize(
    ("pattern", "kind", "message"),
    [
        ("attn_k_norm=q8_0", "q4_0", "matches no matrix"),
        ("ffn_norm=q8_0", "q4_0", "matches no matrix"),
        ("ffn_up=q8_0", "bf16", "need a quantized file type"),
    ],
)
def test_types_by_name_that_mean_nothing(f16_pair, tmp_path, pattern, kind, message):
    with pytest.raises(QuantizeError, match=message):
        quantize_file(f16_pair.text, tmp_path / "t.gguf", kind, overrides=[TypeOverride.parse(pattern)])


@pytest.mark.parametrize("text", ["q8_0", "=q8_0", "ffn=", "ffn=q9", "(=q8_0"])
def test_malformed_types_by_name(text):
    with pytest.raises(ValueError, match=r"PATTERN=TYPE|unknown element type|not a regular expression"):
        TypeOverride.parse(text)


def test_sources_that_will_not_do(f16_pair, tmp_path):
    with pytest.raises(OutputError, match="is an input and would be replaced"):
        quantize_file(f16_pair.text, f16_pair.text, "q4_0", overwrite=True)
    with pytest.raises(QuantizeError, match="unknown file type 'q3_k'"):
        quantize_file(f16_pair.text, tmp_path / "t.gguf", "q3_k")
    with pytest.raises(ModelFileError, match="cannot be read"):
        quantize_file(tmp_path / "nothing.gguf", tmp_path / "t.gguf", "q4_0")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="has architecture 'bert'"):
        quantize_file(tmp_path / "other.gguf", tmp_path / "t.gguf", "q4_0")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(f16_pair.text.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        quantize_file(cut, tmp_path / "t.gguf", "q4_0")
    assert not (tmp_path / "t.gguf").exists()


def test_numbers_that_are_none(f16_pair, tmp_path):
    """llama.cpp finds them while it reads, and its reason is in the error."""
    file = GgufFile(f16_pair.text)
    weight = file.tensor("blk.1.ffn_up.weight")
    weight.data = b"\x00\x7c" + weight.data[2:]  # infinity
    file.write(tmp_path / "bad.gguf")
    with pytest.raises(QuantizeError, match=r"could not be quantized: .*(invalid|inf)"):
        quantize_file(tmp_path / "bad.gguf", tmp_path / "t.gguf", "q4_0", threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
