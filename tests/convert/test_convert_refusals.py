"""Checkpoints that cannot be converted are refused by name, and nothing is written."""

import json
from pathlib import Path

import pytest
from tiny_checkpoint import safetensors_bytes, tiny_config, tiny_weights, write_tiny_checkpoint

from visionward.convert import OutputError, convert_checkpoint
from visionward.errors import CheckpointError
from visionward.formats.safetensors_reader import read_header


@pytest.fixture
def folder(tmp_path):
    return write_tiny_checkpoint(tmp_path / "source")


def edit(folder: Path, file: str, section: str | None = None, **values):
    path = folder / file
    content = json.loads(path.read_text(encoding="utf-8"))
    (content[section] if section else content).update(values)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(folder: Path, message: str, **options):
    out = folder.parent / "out"
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(folder, out, **options)
    assert not out.exists() or list(out.iterdir()) == []


TEXT = {
    "first layer": ({"cross_attention_layers": [0, 3]}, "layer 0 has no self-attention layer before it"),
    "last layer": ({"cross_attention_layers": [1, 5]}, "cross-attention layer 5 is the last layer"),
    "beyond": ({"cross_attention_layers": [1, 6]}, r"cross_attention_layers is \[1, 6\], expected an ascending list"),
    "unordered": ({"cross_attention_layers": [3, 1]}, "an ascending list"),
    "none": ({"cross_attention_layers": []}, "at least one"),
    "activation": ({"hidden_act": "gelu"}, 'hidden_act is "gelu", expected "silu"'),
    "heads": ({"num_attention_heads": 3}, r"num_attention_heads \(3\) does not divide hidden_size \(256\)"),
    "kv heads": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "rope": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'"),
    "rope lacks": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
    "type": ({"num_hidden_layers": "six"}, 'num_hidden_layers is "six", expected an integer'),
    "bool": ({"num_hidden_layers": True}, "num_hidden_layers is true"),
    "epsilon": ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a positive number"),
}


@pytest.mark.parametrize("case", TEXT)
def test_text_settings(folder, case):
    values, message = TEXT[case]
    edit(folder, "config.json", "text_config", **values)
    refused(folder, message)


VISION = {
    "activation": ({"hidden_act": "quick_gelu"}, "hidden_act"),
    "channels": ({"num_channels": 1}, "num_channels is 1, expected 3"),
    "heads": ({"attention_heads": 5}, r"attention_heads \(5\) does not divide hidden_size \(128\)"),
    "patch": ({"patch_size": 15}, r"patch_size \(15\) does not divide image_size \(56\)"),
    "epsilon": ({"norm_eps": 1e-6}, "norm_eps is 1e-06, expected 1e-05"),
    "intermediate": ({"intermediate_layers_indices": [2, 4]}, "an ascending list of layers below 4"),
    "output": ({"vision_output_dim": 7680}, "vision_output_dim is 7680, expected 384"),
    "ratios": ({"supported_aspect_ratios": [[1, 1], [2, 2]]}, "supported_aspect_ratios"),
}


@pytest.mark.parametrize("case", VISION)
def test_vision_settings(folder, case):
    values, message = VISION[case]
    edit(folder, "config.json", "vision_config", **values)
    refused(folder, message)


PREPROCESSING = {
    "filter": ({"resample": 3}, "resample is 3, expected 2"),
    "no padding": ({"do_pad": False}, "do_pad is false, expected true"),
    "no conversion": ({"do_convert_rgb": False}, "do_convert_rgb"),
    "scale": ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    "size": ({"size": {"height": 56, "width": 112}}, "size is .*expected the tile size of the tower, 56"),
    "tiles": ({"max_image_tiles": 6}, "max_image_tiles is 6, expected 4"),
    "mean": ({"image_mean": [0.5, 0.5]}, "image_mean is .* expected three numbers"),
    "std": ({"image_std": [0.5, 0.5, 0]}, "image_std"),
    "kind": ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type"),
}


@pytest.mark.parametrize("case", PREPROCESSING)
def test_preprocessing_settings(folder, case):
    values, message = PREPROCESSING[case]
    edit(folder, "preprocessor_config.json", **values)
    refused(folder, message)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_missing_and_broken_files(folder, file):
    (folder / file).write_text("{", encoding="utf-8")
    refused(folder, f"{file}: not a readable JSON file")
    (folder / file).write_text("[]", encoding="utf-8")
    refused(folder, f"{file}: not a JSON object")
    (folder / file).unlink()
    refused(folder, f"{file} is missing")


def test_other_models(folder, tmp_path):
    edit(folder, "config.json", quantization_config={"quant_method": "bitsandbytes"})
    refused(folder, "the checkpoint is quantized")
    edit(folder, "config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    refused(folder, "the model class is LlamaForCausalLM of type 'llama'; only MllamaForConditionalGeneration")
    refused(folder / "config.json", "not a folder")
    refused(tmp_path / "nowhere", "no such folder")


def test_end_tokens_outside_the_vocabulary(folder):
    edit(folder, "generation_config.json", eos_token_id=[509, 600])
    refused(folder, r"eos_token_id is \[509, 600\], expected ids below 512")


def test_arguments(folder):
    refused(folder, "text_type is 'q3_k', expected one of f32, f16, bf16, q8_0", text_type="q3_k")
    refused(folder, "mmproj_type is 'int8'", mmproj_type="int8")
    refused(folder, "the name 'a/b' cannot be part of a file's name", name="a/b")
    refused(folder, "the name ''", name="")


def rewritten(folder, change):
    """The checkpoint's safetensors file with its tensors changed."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    tensors = {
        name: (tensor.dtype, tensor.shape, data[tensor.offset : tensor.offset + tensor.nbytes])
        for name, tensor in read_header(path).items()
    }
    change(tensors)
    path.write_bytes(safetensors_bytes(tensors))


def test_missing_unknown_and_misshaped_tensors(folder):
    prefix = "language_model.model.layers.0."

    def change(tensors):
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]
        tensors["language_model.model.layers.0.lora_A.weight"] = ("F32", (1,), bytes(4))
        tensors["multi_modal_projector.bias"] = ("F32", (2,), bytes(8))

    rewritten(folder, change)
    refused(
        folder,
        r"tensor mismatch: 9 missing \(.*input_layernorm\.weight, .* and 4 more\), "
        r"1 unknown \(language_model\.model\.layers\.0\.lora_A\.weight\), "
        r"1 with a shape that contradicts config\.json \(multi_modal_projector\.bias \[2\] instead of \[256\]\)",
    )


def test_old_buffers_are_ignored(folder, tmp_path):
    expected = convert_checkpoint(folder, tmp_path / "a").text.read_bytes()
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    rewritten(folder, lambda tensors: tensors.update({name: ("F32", (32,), bytes(128))}))
    assert convert_checkpoint(folder, tmp_path / "b").text.read_bytes() == expected


def test_one_tensor_under_two_names(folder):
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["language_model.lm_head.weight"]}))
    refused(folder, r"the tensors 'language_model\.lm_head\.weight' and 'lm_head\.weight'")


def test_other_element_types(folder):
    name = "multi_modal_projector.bias"
    rewritten(folder, lambda tensors: tensors.update({name: ("F8_E4M3", (256,), bytes(256))}))
    refused(folder, r"'multi_modal_projector\.bias' has dtype F8_E4M3; only F32, F16, BF16")


def test_weights_beyond_f16(tmp_path):
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    values = tiny_weights(tiny_config())[name]
    values[3, 3] = 1e6
    folder = write_tiny_checkpoint(tmp_path / "source", dtype="BF16", weights={name: values})
    refused(folder, rf"'{name}' has the value 999424, and the largest F16 value is 65504; convert to bf16 or f32")
    convert_checkpoint(folder, tmp_path / "out", text_type="bf16")


@pytest.mark.parametrize("kept", [0, 7, 8, 500, -1])
def test_truncated_safetensors(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "truncated")


def test_damaged_headers(folder):
    path = folder / "model.safetensors"
    for header, message in (
        (b"{nonsense", "header is not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"w": {"dtype": "F32", "shape": [2]}}', "entry for 'w' is malformed"),
        (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "needs 8 bytes, the header says 4"),
        (b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}', "'w' of shape"),
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        refused(folder, message)


def test_shards(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "source", shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    refused(folder, "1 of 3 weight files are missing .model-00002-of-00003")
    shard.write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    refused(folder, "is missing, although model.safetensors.index.json lists it here")
    shard.write_bytes(content[:-1])
    refused(folder, "truncated")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../w.safetensors"}}))
    refused(folder, "is not a file name")
    index.write_text("{}")
    refused(folder, "not a safetensors index")
    index.unlink()
    refused(folder, r"no weights \(model\.safetensors or model\.safetensors\.index\.json\)")


def test_no_room_and_no_place(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        convert_checkpoint(folder, tmp_path / "file" / "out")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("visionward.formats.output_file.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"the files need .* MB and the disk has .* kB free"):
        convert_checkpoint(folder, tmp_path / "out")


def test_no_room_for_the_tower_is_found_before_anything_is_written(folder, tmp_path, monkeypatch):
    pair = convert_checkpoint(folder, tmp_path / "pair")
    free = pair.text.stat().st_size + pair.mmproj.stat().st_size
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("visionward.formats.output_file.shutil.disk_usage", lambda _: usage)
    convert_checkpoint(folder, tmp_path / "again")
    with pytest.raises(OutputError, match="the files need"):
        convert_checkpoint(folder, tmp_path / "out", onnx_type="f16")
    assert not list((tmp_path / "out").iterdir())
