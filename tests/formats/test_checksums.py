"""Checksums: in every file that is written, checked at the first load, and never taken on trust."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf_edit import HEADER_CHECKSUM, TENSOR_CHECKSUMS, VERSION, GgufFile

from visionward import Engine, Guard
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.convert.demo_guard import demo_pair
from visionward.demonstration import demo_samples_path
from visionward.diagnose.verification import picture_difference
from visionward.errors import ComputeError, ModelFileError
from visionward.formats import tensor_checksums
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.pair_files import PairFiles
from visionward.quant.quantize import quantize_file
from visionward.runtime.guard.samples import read_samples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def demo(tmp_path: Path) -> ConvertedPair:
    """The demonstration guard, to be damaged."""
    made = demo_pair()
    return ConvertedPair(Path(shutil.copy(made.text, tmp_path)), Path(shutil.copy(made.mmproj, tmp_path)))


def refused(pair: ConvertedPair) -> str:
    with pytest.raises(ModelFileError) as caught:
        Engine(pair.text, pair.mmproj, n_ctx=64)
    return str(caught.value)


# What is written.


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_k_m"])
def test_checksums_are_those_of_sha256(tiny_checkpoint_dir: Path, tmp_path: Path, kind: str) -> None:
    """Taken apart and put together by the tests' own code, every file is the same again."""
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path, text_type=kind, mmproj_type=kind)
    quantized = [tmp_path / "text.gguf", tmp_path / "mmproj.gguf"]
    for source, target in zip((pair.text, pair.mmproj), quantized, strict=True):
        quantize_file(source, target, "q4_0", threads=1, allow_requantize=True)
    for path in (pair.text, pair.mmproj, *quantized):
        file = GgufFile(path)
        assert file.key(VERSION.decode()).decoded == 2
        assert file.write(tmp_path / "again.gguf").read_bytes() == path.read_bytes()
        checksums = [hashlib.sha256(tensor.data).hexdigest().encode() for tensor in file.tensors]
        assert GgufHeader(path).strings(TENSOR_CHECKSUMS.decode()) == checksums


def test_a_damaged_source_is_not_quantized(tiny_pair, tmp_path: Path) -> None:
    for path in (tiny_pair.text, tiny_pair.mmproj):
        source = damaged(path, tmp_path / "source.gguf", -100)
        with pytest.raises(ModelFileError, match="is damaged: tensor"):
            quantize_file(source, tmp_path / "target.gguf", "q8_0")
        assert not (tmp_path / "target.gguf").exists()


def damaged(path: Path, target: Path, at: int) -> Path:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    target.write_bytes(content)
    return target


# What is read.


@pytest.mark.parametrize("checksums", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("which", ["text", "mmproj"])
def test_an_interrupted_download_filled_with_zeros(demo, which: str, checksums: bool) -> None:
    path: Path = getattr(demo, which)
    if not checksums:
        for file in (demo.text, demo.mmproj):
            GgufFile(file).without_checksums().write(file)
    size = path.stat().st_size
    os.truncate(path, int(0.8 * size))
    os.truncate(path, size)
    assert "is damaged: tensor" in refused(demo)


@pytest.mark.parametrize("which", ["text", "mmproj"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_one_bit_of_a_weight(demo, which: str, share: float) -> None:
    path: Path = getattr(demo, which)
    header = GgufHeader(path)
    tensor = list(header.tensors.values())[int(share * len(header.tensors))]
    damaged(path, path, tensor.offset + int(share * tensor.nbytes))
    message = refused(demo)
    assert f"{path} is damaged: tensor {tensor.name} does not match its checksum" in message


def test_deleted_bytes(demo) -> None:
    content = demo.mmproj.read_bytes()
    for at in (len(content) // 2, len(content) - 4096):
        demo.mmproj.write_bytes(content[:at] + content[at + 32 :])
        assert "is damaged or truncated" in refused(demo)


def test_bytes_behind_the_end(demo) -> None:
    with demo.mmproj.open("ab") as file:
        file.write(bytes(64))
    assert " bytes follow the last tensor" in refused(demo)


def test_offsets_into_another_tensor(demo) -> None:
    file = GgufFile(demo.mmproj)
    file.tensors[-1].offset = sum(len(tensor.data) + -len(tensor.data) % 32 for tensor in file.tensors[:3])
    file.write(demo.mmproj)
    assert f"tensor {file.tensors[-1].name.decode()} begins at byte" in refused(demo)


@pytest.mark.parametrize("key", [HEADER_CHECKSUM, TENSOR_CHECKSUMS])
def test_lost_checksums(demo, key: bytes) -> None:
    """A file of this version without checksums is damaged, whatever else is right."""
    file = GgufFile(demo.mmproj)
    file.keys = [one for one in file.keys if one.name != key]
    file.write(demo.mmproj)
    assert "is damaged: its " in refused(demo)


def test_a_version_that_is_not_known(demo) -> None:
    newer = "it was written by a newer visionward, so update visionward"
    for version, remedy in ((0, "convert the model again"), (3, newer), (2**31, newer)):
        for path in (demo.mmproj, demo.text):
            whole = path.read_bytes()
            file = GgufFile(path)
            file.set(VERSION.decode(), version)
            file.write(path)
            assert refused(demo) == f"{path} has format version {version}, expected 2: {remedy}."
            path.write_bytes(whole)


# Files by others.


def test_without_checksums_a_verdict_warns(demo) -> None:
    for path in (demo.text, demo.mmproj):
        GgufFile(path).without_checksums().write(path)
    sample = read_samples(demo_samples_path())[0]
    with Guard.load(demo.text, demo.mmproj) as guard:
        verdict = guard.classify(sample.conversation)
    found = [warning for warning in verdict.warnings if "has no checksums" in warning]
    assert [warning.split(" ")[0] for warning in found] == [demo.text.name, demo.mmproj.name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cross.blk.1.gate_attn", 0.0),
        ("cross.blk.0.gate_ffn", -0.0),
        ("v.position_embd.gate", 0.0),
        ("v.global.blk.0.gate_attn", 0.0),
        ("cross.blk.0.attn_k_norm.weight", 0.0),
        ("v.blk.1.ln2.weight", 0.0),
        ("v.class_embd", 0.0),
        ("v.blk.0.ffn_up.bias", float("nan")),
        ("cross.blk.0.ffn_norm.weight", float("inf")),
    ],
)
def test_vectors_that_no_model_has(demo, name: str, value: float) -> None:
    file = GgufFile(demo.mmproj).without_checksums()
    tensor = file.tensor(name)
    tensor.data = np.full(len(tensor.data) // 4, value, np.float32).tobytes()
    file.write(demo.mmproj)
    assert f"tensor {name} has " in refused(demo)


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_norm.weight"])
def test_norms_that_no_decoder_has(demo, name: str) -> None:
    file = GgufFile(demo.text).without_checksums()
    file.tensor(name).data = bytes(len(file.tensor(name).data))
    file.write(demo.text)
    assert f"tensor {name} has only zeros" in refused(demo)


@pytest.mark.parametrize(
    ("which", "key", "value"),
    [
        ("mmproj", "clip.vision.attention.layer_norm_epsilon", -1e-5),
        ("mmproj", "clip.vision.attention.layer_norm_epsilon", float("nan")),
        ("mmproj", "visionward.vision.global_block_count", 2**31),
        ("mmproj", "visionward.vision.max_tiles", 65),
        ("mmproj", "visionward.text.attention.head_count_kv", 0),
        ("text", "llama.block_count", 2**31 + 2),
        ("text", "llama.attention.head_count_kv", 2**20),
        ("text", "llama.attention.layer_norm_rms_epsilon", -1e-5),
        ("text", "llama.rope.freq_base", float("inf")),
        ("text", "llama.rope.freq_base", 1e-30),
        ("text", "visionward.vocab_rows", 0),
        ("text", "tokenizer.ggml.eos_token_id", 2**31),
    ],
)
def test_numbers_that_no_model_has(demo, which: str, key: str, value: float) -> None:
    path: Path = getattr(demo, which)
    file = GgufFile(path).without_checksums()
    file.set(key, value)
    file.write(path)
    assert f"invalid value of {key} (" in refused(demo)


def test_a_tensor_of_huge_extents(demo) -> None:
    """Their product is 2^64 + 32, which is 32 to whoever counts in 64 bits."""
    file = GgufFile(demo.mmproj).without_checksums()
    extra = file.tensors[0]
    file.tensors.append(type(extra)(b"extra.weight", [2**32 - 32, 2**32 + 32, 1, 1], 0, bytes(128)))
    file.write(demo.mmproj)
    assert "is damaged or truncated: tensor extra.weight ends at byte" in refused(demo)


def test_keys_that_nobody_reads(demo) -> None:
    """llama.cpp would take 10,000 for the frequency base of a key whose name is damaged."""
    file = GgufFile(demo.text).without_checksums()
    file.key("llama.rope.freq_base").name = b"llama.rope.freq_basd"
    file.write(demo.text)
    assert "has an unknown key 'llama.rope.freq_basd'" in refused(demo)


# What is remembered.


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files that are read in full, as they are read."""
    found: list[str] = []
    compute = tensor_checksums.computed_checksums

    def counted(header, *arguments):
        found.append(header.path.name)
        return compute(header, *arguments)

    monkeypatch.setattr(tensor_checksums, "computed_checksums", counted)
    return found


def test_a_sound_file_is_read_once(demo, reads) -> None:
    names = [demo.text.name, demo.mmproj.name]
    PairFiles.open(demo.text, demo.mmproj).check_checksums()
    assert reads == names
    PairFiles.open(demo.text, demo.mmproj).check_checksums()
    assert reads == names
    PairFiles.open(demo.text, demo.mmproj).check_checksums(again=True)
    assert reads == names * 2


def test_a_changed_file_is_read_again(demo, reads) -> None:
    PairFiles.open(demo.text, demo.mmproj).check_checksums()
    del reads[:]
    times = demo.mmproj.stat()
    damaged(demo.mmproj, demo.mmproj, -100)
    # As a tool does that keeps the time of a file that it writes to.
    os.utime(demo.mmproj, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ModelFileError, match="is damaged"):
        PairFiles.open(demo.text, demo.mmproj).check_checksums()
    assert reads == [demo.mmproj.name]


def test_a_damaged_file_is_not_remembered(demo, reads) -> None:
    damaged(demo.mmproj, demo.mmproj, -100)
    for _ in range(2):
        with pytest.raises(ModelFileError, match="is damaged"):
            PairFiles.open(demo.text, demo.mmproj).check_checksums()
    assert reads == [demo.text.name, demo.mmproj.name, demo.mmproj.name]


def test_without_a_cache(demo, reads, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        PairFiles.open(demo.text, demo.mmproj).check_checksums()
    assert len(reads) == 4


# Whether the image is seen.


def test_pictures_change_the_logits(demo) -> None:
    with Guard.load(demo.text, demo.mmproj) as guard:
        assert picture_difference(guard.engine) > 0.05


def test_a_model_that_does_not_see(demo) -> None:
    """Nothing in it is zero, and its checksums are right."""
    file = GgufFile(demo.mmproj)
    for tensor in file.tensors:
        if tensor.name.startswith(b"cross.") and b"gate_" in tensor.name:
            tensor.data = np.array([1e-6], np.float32).tobytes()
    file.write(demo.mmproj)
    with Guard.load(demo.text, demo.mmproj) as guard, pytest.raises(ComputeError, match="does not see the image"):
        picture_difference(guard.engine)
