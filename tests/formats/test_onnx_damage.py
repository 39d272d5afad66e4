"""ONNX towers that are damaged or no towers at all are refused, or left out where nobody named them."""

import hashlib
import logging
import os
import random
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_towers import BACKENDS, backend_of, copy_tower, refused, rewrite

from visionward.errors import ModelFileError
from visionward.formats.onnx_format import (
    CHECKSUM_BYTES,
    data_path,
    read_identity,
)

pytestmark = pytest.mark.usefixtures("unlimited")


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


def set_key(tower: Path, key: str, value: str | None) -> None:
    model = onnx.load(tower, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert key in kept
    del kept[key]
    helper.set_model_props(model, kept if value is None else kept | {key: value})
    rewrite(tower, model)


def another_version(tower: Path) -> None:
    set_key(tower, "visionward.format_version", "1")


def a_newer_version(tower: Path) -> None:
    set_key(tower, "visionward.format_version", "4")


def no_text_hash(tower: Path) -> None:
    set_key(tower, "visionward.text_hash", None)


def no_number(tower: Path) -> None:
    set_key(tower, "visionward.data_bytes", "many")


def no_type(tower: Path) -> None:
    set_key(tower, "visionward.weight_type", "int3")


def four_bits(tower: Path) -> None:
    set_key(tower, "visionward.weight_type", "int4")


def other_data(tower: Path) -> None:
    data = data_path(tower)
    data.write_bytes(data.read_bytes()[:-CHECKSUM_BYTES] + bytes(CHECKSUM_BYTES))


def a_flipped_constant(tower: Path) -> None:
    model = onnx.load(tower, load_external_data=False)
    constant = next(c for c in model.graph.initializer if c.data_type == TensorProto.FLOAT and c.raw_data)
    raw = constant.raw_data
    content = tower.read_bytes()
    at = content.rindex(raw)
    tower.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def flip(tower: Path, name: str) -> None:
    model = onnx.load(tower, load_external_data=False)
    (vector,) = (weight for weight in model.graph.initializer if weight.name == name)
    place = {entry.key: entry.value for entry in vector.external_data}
    content = bytearray(data_path(tower).read_bytes())
    content[int(place["offset"]) + int(place["length"]) - 1] ^= 1
    data_path(tower).write_bytes(content)


def a_flipped_norm(tower: Path) -> None:
    flip(tower, "v.blk.1.ln2.weight")


def a_flipped_bias(tower: Path) -> None:
    flip(tower, "v.global.blk.0.ffn_up.bias")


def a_flipped_matrix(tower: Path) -> None:
    flip(tower, "v.blk.1.attn_q.weight")


def a_misplaced_norm(tower: Path, key: str = "offset", value: str = "9" * 30) -> None:
    model = onnx.load(tower, load_external_data=False)
    (norm,) = (weight for weight in model.graph.initializer if weight.name == "v.blk.1.ln2.weight")
    for entry in norm.external_data:
        if entry.key == key:
            entry.value = value
    graph = model.SerializeToString()
    tower.write_bytes(graph)
    with data_path(tower).open("r+b") as file:
        file.seek(-CHECKSUM_BYTES, os.SEEK_END)
        file.write(hashlib.sha256(graph).digest())


def a_norm_of_no_length(tower: Path) -> None:
    a_misplaced_norm(tower, "length", "none")


def a_norm_behind_the_end(tower: Path) -> None:
    a_misplaced_norm(tower, "offset", "9" * 13)


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
    drop_data: "has the weights of vision-plain-f32.onnx, is missing",
    cut_data: "bytes, expected",
    cut_graph: "is not an ONNX file, or is damaged",
    empty_graph: "its size is 0 bytes",
    text_instead: "is not an ONNX file, or is damaged",
    huge_file: "is not a vision tower",
    foreign_model: "not a vision tower that visionward exported",
    another_version: "has format version 1, expected 3: export it again",
    a_newer_version: "has format version 4, expected 3: it was written by a newer visionward, so update visionward",
    no_text_hash: "has invalid metadata (visionward.text_hash)",
    no_number: "has invalid metadata",
    no_type: "invalid metadata (visionward.weight_type)",
    four_bits: "int4 weights, which are not supported because their features are 13 to 20 % off: export",
    other_data: "is damaged, or vision-plain-f32.onnx.data belongs to another export",
    elsewhere: "was renamed: its weights are in vision-other-f32.onnx.data",
    a_flipped_constant: "is damaged, or vision-plain-f32.onnx.data belongs to another export",
    a_flipped_norm: "vision-plain-f32.onnx.data is damaged",
    a_flipped_bias: "vision-plain-f32.onnx.data is damaged",
    a_flipped_matrix: "vision-plain-f32.onnx.data is damaged",
    a_misplaced_norm: "a weight has no valid position in vision-plain-f32.onnx.data",
    a_norm_of_no_length: "a weight has no valid position in vision-plain-f32.onnx.data",
    a_norm_behind_the_end: "vision-plain-f32.onnx.data is damaged",
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
    assert "an ONNX tower is ignored" in caplog.text


def test_a_damaged_scale(tower_of, tmp_path: Path) -> None:
    """Rounding to 8 bits behind it could hide that it is no number any more."""
    tower = copy_tower(tower_of("plain", "int8"), tmp_path / "vision-plain-int8.onnx")
    flip(tower, "v.global.blk.0.attn_q.weight.scale")
    with pytest.raises(ModelFileError, match="is damaged: export it again"):
        read_identity(tower)


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
