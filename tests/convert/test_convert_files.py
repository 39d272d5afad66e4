"""The two files: names, keys, tensors, and what does not change them."""

import json
import re

import gguf
import numpy as np
import pytest
from progress_reports import stages
from tiny_checkpoint import tiny_config, tiny_weights, token_id, write_tiny_checkpoint

from visionward.convert import convert_checkpoint
from visionward.convert.checkpoint import checkpoint_name
from visionward.convert.provenance import LLAMA_3_2_NOTICE
from visionward.formats import mmproj_format
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def tensors(path):
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(n) for n in reversed(tensor.shape))
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def test_file_names(tiny_checkpoint_dir, tmp_path):
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path / "a" / "b", text_type="Q8_0", mmproj_type="bf16")
    assert pair.text == tmp_path / "a" / "b" / "tiny-text-Q8_0.gguf"
    assert pair.mmproj == tmp_path / "a" / "b" / "mmproj-tiny-BF16.gguf"
    assert sorted(path.name for path in pair.text.parent.iterdir()) == [pair.mmproj.name, pair.text.name]
    named = convert_checkpoint(tiny_checkpoint_dir, tmp_path, name="guard")
    assert (named.text.name, named.mmproj.name) == ("guard-text-F16.gguf", "mmproj-guard-F16.gguf")
    assert fields(named.text)["general.name"] == fields(named.mmproj)["general.name"] == "guard"


def test_name_of_a_snapshot_in_the_hub_cache(tmp_path):
    assert checkpoint_name(tmp_path / "models--meta-llama--Llama-Guard-3-11B-Vision" / "snapshots" / "0a1b") == (
        "Llama-Guard-3-11B-Vision"
    )
    assert checkpoint_name(tmp_path / "guard") == "guard"


def test_the_runtime_reads_the_mmproj_configuration(tiny_pair):
    config = read_mmproj_config(GgufHeader(tiny_pair.mmproj))
    assert config.text_hash == fields(tiny_pair.text)[mmproj_format.KEY_TEXT_HASH]
    assert re.fullmatch("[0-9a-f]{64}", config.text_hash)
    assert config.text_hash.strip("0")
    vision, cross = config.vision, config.cross_attention
    assert (vision.tile_size, vision.patch_size, vision.width, vision.head_count) == (56, 14, 128, 2)
    assert (vision.local_layers, vision.global_layers, vision.intermediate_layers) == (4, 2, (1, 2))
    assert vision.aspect_ratios == ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
    assert vision.padding_collapses
    np.testing.assert_allclose(vision.image_mean, (0.48145466, 0.4578275, 0.40821073), rtol=1e-7)
    assert (cross.layers, cross.self_attention_layers) == ((1, 4), 4)
    assert (cross.vocab_rows, cross.image_token_id) == (512, 512)
    shapes = mmproj_format.tensor_shapes(vision, cross)
    found = {name: values.shape for name, values in tensors(tiny_pair.mmproj).items()}
    assert list(found.items()) == list(shapes.items())


def test_keys_of_the_text_file(tiny_pair):
    keys = fields(tiny_pair.text)
    assert (keys["general.architecture"], keys["general.type"], keys["general.file_type"]) == ("llama", "model", 0)
    ends = [token_id(name) for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    assert keys[mmproj_format.KEY_END_TOKEN_IDS] == ends
    assert keys["tokenizer.ggml.bos_token_id"] == token_id("<|begin_of_text|>")
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["llama.block_count"] == 4
    assert keys["llama.rope.dimension_count"] == 64
    assert "<|start_header_id|>" in keys["tokenizer.chat_template"]
    assert "general.license" not in keys
    assert fields(tiny_pair.mmproj)["general.architecture"] == "clip"


def test_values_of_the_mmproj_tensors(tiny_pair):
    source = tiny_weights(tiny_config())
    found = tensors(tiny_pair.mmproj)

    def same(name, values):
        np.testing.assert_array_equal(found[name], values)

    same("v.patch_embd.weight", source["vision_model.patch_embedding.weight"].reshape(128, -1))
    tile = source["vision_model.gated_positional_embedding.tile_embedding.weight"]
    same("v.tile_position_embd.weight", tile.reshape(9, 4, 17, 128))
    same("v.global.blk.1.gate_ffn", source["vision_model.global_transformer.layers.1.gate_ffn"])
    same("v.blk.3.ffn_down.weight", source["vision_model.transformer.layers.3.mlp.fc2.weight"])
    # Cross-attention has no rotary embedding, so its rows keep their order.
    same("cross.blk.1.attn_q.weight", source["language_model.model.layers.4.cross_attn.q_proj.weight"])
    same("cross.blk.0.gate_attn", source["language_model.model.layers.1.cross_attn_attn_gate"])
    projector = source["multi_modal_projector.weight"]
    same("mm.0.weight", np.concatenate([projector[:, :128], projector[:, 128::2], projector[:, 129::2]], axis=1))


def test_values_of_the_text_tensors(tiny_pair):
    source = tiny_weights(tiny_config())
    found = tensors(tiny_pair.text)
    np.testing.assert_array_equal(found["output.weight"][:512], source["language_model.lm_head.weight"])
    assert not found["output.weight"][512:].any()
    assert "blk.4.attn_q.weight" not in found
    # Layers 0, 2, 3 and 5 of the checkpoint.
    for block, layer in enumerate((0, 2, 3, 5)):
        prefix = f"language_model.model.layers.{layer}."
        np.testing.assert_array_equal(found[f"blk.{block}.attn_v.weight"], source[f"{prefix}self_attn.v_proj.weight"])
        query = source[f"{prefix}self_attn.q_proj.weight"].reshape(4, 2, 32, 256).swapaxes(1, 2).reshape(256, 256)
        np.testing.assert_array_equal(found[f"blk.{block}.attn_q.weight"], query)


@pytest.mark.parametrize("change", [{"layout": "modules"}, {"shards": 3}, {"layout": "modules", "shards": 5}])
def test_layout_and_shards_do_not_matter(tiny_checkpoint_dir, tmp_path, change):
    expected = convert_checkpoint(tiny_checkpoint_dir, tmp_path / "expected")
    other = convert_checkpoint(write_tiny_checkpoint(tmp_path / "tiny", **change), tmp_path / "found")
    assert other.text.read_bytes() == expected.text.read_bytes()
    assert other.mmproj.read_bytes() == expected.mmproj.read_bytes()


def test_the_text_hash_follows_the_weights_and_not_the_type(tiny_checkpoint_dir, tmp_path):
    def text_hash(folder, **options):
        pair = convert_checkpoint(folder, tmp_path / "out", **options)
        assert fields(pair.mmproj)[mmproj_format.KEY_TEXT_HASH] == fields(pair.text)[mmproj_format.KEY_TEXT_HASH]
        return fields(pair.text)[mmproj_format.KEY_TEXT_HASH]

    first = text_hash(tiny_checkpoint_dir)
    assert text_hash(tiny_checkpoint_dir, text_type="q8_0", mmproj_type="f32") == first
    name = "language_model.model.layers.5.mlp.up_proj.weight"
    weights = tiny_weights(tiny_config())
    weights[name][-1, -1] += 1
    assert text_hash(write_tiny_checkpoint(tmp_path / "a", weights={name: weights[name]})) != first
    # Another tower belongs to the same text model.
    bias = {"multi_modal_projector.bias": weights["multi_modal_projector.bias"] + 1}
    assert text_hash(write_tiny_checkpoint(tmp_path / "b", weights=bias)) == first


def test_padding_collapses_only_over_zero_embeddings(tmp_path):
    pair = convert_checkpoint(write_tiny_checkpoint(tmp_path / "a", zero_unused_tiles=False), tmp_path)
    assert fields(pair.mmproj)[mmproj_format.KEY_PADDING_COLLAPSES] is False
    weights = tiny_weights(tiny_config())
    name = "vision_model.post_tile_positional_embedding.embedding.weight"
    one = weights[name].copy()
    one[1, -1] = 1e-9  # canvas 1 x 1, last tile
    pair = convert_checkpoint(write_tiny_checkpoint(tmp_path / "b", weights={name: one}), tmp_path)
    assert fields(pair.mmproj)[mmproj_format.KEY_PADDING_COLLAPSES] is False
    one = weights[name].copy()
    one[0] = 1  # id 0 is no canvas
    one[1, -1] = -0.0
    pair = convert_checkpoint(write_tiny_checkpoint(tmp_path / "c", weights={name: one}), tmp_path)
    assert fields(pair.mmproj)[mmproj_format.KEY_PADDING_COLLAPSES] is True


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_source_types(tmp_path, dtype):
    folder = write_tiny_checkpoint(tmp_path / "tiny", dtype=dtype)
    pair = convert_checkpoint(folder, tmp_path, text_type="f32", mmproj_type="f32")
    source = tiny_weights(tiny_config())["language_model.model.layers.0.mlp.up_proj.weight"]
    found = tensors(pair.text)["blk.0.ffn_up.weight"]
    if dtype == "F16":
        np.testing.assert_array_equal(found, source.astype(np.float16).astype(np.float32))
    else:
        assert np.max(np.abs(found - source) / np.abs(source)) <= 2**-8


def test_a_head_that_is_stored_although_tied(tmp_path):
    weights = tiny_weights(tiny_config(tied=True))
    embedding = weights["language_model.model.embed_tokens.weight"]
    head = {"language_model.lm_head.weight": embedding[:512]}
    pair = convert_checkpoint(write_tiny_checkpoint(tmp_path / "same", tied=True, weights=head), tmp_path)
    assert "output.weight" not in tensors(pair.text)
    other = {"language_model.lm_head.weight": embedding[:512] + 1}
    folder = write_tiny_checkpoint(tmp_path / "other", tied=True, weights=other)
    with pytest.raises(ValueError, match=r"tie_word_embeddings, but .*lm_head\.weight' differs"):
        convert_checkpoint(folder, tmp_path)


def test_licence_and_source(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "meta-llama/Llama-Guard-3-11B-Vision"}))
    (folder / "README.md").write_text(
        "---\nlicense: llama3.2\nbase_model:\n- meta-llama/Llama-3.2-11B-Vision\n---\n# Card\n"
    )
    for path in (pair := convert_checkpoint(folder, tmp_path)).text, pair.mmproj:
        keys = fields(path)
        assert keys["general.license"] == "llama3.2"
        assert keys["general.license.name"] == "Llama 3.2 Community License Agreement"
        assert keys["general.license.link"].startswith("https://")
        assert keys["visionward.license_notice"] == LLAMA_3_2_NOTICE
        assert keys["general.source.repo_url"] == "https://huggingface.co/meta-llama/Llama-Guard-3-11B-Vision"
        assert keys["general.base_model.0.name"] == "Llama-3.2-11B-Vision"


def test_licence_from_a_file_and_no_local_path(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "/home/someone/model"}))
    (folder / "LICENSE").write_text("                                 Apache License\n   Version 2.0, January 2004\n")
    pair = convert_checkpoint(folder, tmp_path)
    keys = fields(pair.text)
    assert keys["general.license"] == "apache-2.0"
    assert "visionward.license_notice" not in keys
    assert "general.source.repo_url" not in keys
    assert b"/home/someone" not in pair.text.read_bytes()


def test_chat_template_precedence(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "tiny")

    def template():
        return fields(convert_checkpoint(folder, tmp_path, overwrite=True).text).get("tokenizer.chat_template")

    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "from tokenizer"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config | {"chat_template": named}))
    (folder / "processor_config.json").write_text(json.dumps({"chat_template": "from processor"}))
    (folder / "chat_template.jinja").write_text("from jinja")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    for file, expected in (
        ("chat_template.json", "from json"),
        ("chat_template.jinja", "from jinja"),
        ("processor_config.json", "from processor"),
        ("tokenizer_config.json", "from tokenizer"),
    ):
        assert template() == expected
        if file != "tokenizer_config.json":
            (folder / file).unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert template() is None


def test_every_stage_is_reported(tiny_checkpoint_dir, tmp_path):
    reports = []
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path, onnx_type="f16", on_progress=reports.append)
    assert stages(reports) == ["text file", "mmproj file", "ONNX tower"]
    totals = {report.stage: report.total for report in reports}
    for stage, path in (("text file", pair.text), ("mmproj file", pair.mmproj)):
        assert totals[stage] == sum(tensor.n_bytes for tensor in gguf.GGUFReader(path).tensors)
