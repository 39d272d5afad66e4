"""The text file in stock llama.cpp against Transformers without an image."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from llama_text import text_logits
from text_variants import VARIANTS, random_ids
from tiny_checkpoint import VOCABULARY, module_name, tiny_config, tiny_weights, write_tiny_checkpoint

from visionward.convert import convert_checkpoint

FIXTURE = Path(__file__).parent.parent / "reference" / "text_logits.npz"

# Relative error of the logits; measured 1.4e-6, 1.4e-3, 1.1e-2 and 3.9e-2.
BOUNDS = {"f32": 5e-5, "f16": 5e-3, "bf16": 3e-2, "q8_0": 8e-2}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text_type", BOUNDS)
def test_text_logits_equal_transformers(tmp_path, variant, text_type):
    stored = np.load(FIXTURE)
    ids, expected = stored[f"{variant}.ids"], stored[f"{variant}.logits"]
    checkpoint = write_tiny_checkpoint(tmp_path / "source", **VARIANTS[variant])
    pair = convert_checkpoint(checkpoint, tmp_path, text_type=text_type)
    logits = text_logits(pair.text, ids)[:, : expected.shape[1]]
    assert relative_error(logits, expected) < BOUNDS[text_type]
    if text_type == "f32":
        assert (logits.argmax(-1) == expected.argmax(-1)).all()


def test_padded_head_rows_are_zero(tiny_pair):
    logits = text_logits(tiny_pair.text, random_ids("plain"))
    assert (logits[:, VOCABULARY:] == 0).all()
    assert (logits[:, :VOCABULARY] != 0).all()


def test_stock_llama_class_loads_the_text_file(tiny_pair):
    model = llama_cpp.Llama(str(tiny_pair.text), n_ctx=64, verbose=False, n_gpu_layers=0)
    try:
        tokens = model.tokenize(b"hello", add_bos=True)
        assert tokens[0] == model.token_bos()
        assert model.create_completion("hello", max_tokens=2)["choices"]
    finally:
        model.close()


@pytest.mark.reference
@pytest.mark.parametrize("layout", ["hub", "modules"])
def test_save_pretrained_checkpoints_convert_with_equal_logits(tmp_path, layout):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    folder = write_tiny_checkpoint(tmp_path / "source", seed=11)
    model = transformers.MllamaForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float32).eval()
    if layout == "hub":
        model.save_pretrained(folder, max_shard_size="1MB")
        (folder / "model.safetensors").unlink()
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:
        # Strict about names: exactly those of the modules in memory.
        assert {module_name(name) for name in tiny_weights(tiny_config(), 11)} == set(model.state_dict())
        safetensors_torch.save_file(model.state_dict(), folder / "model.safetensors")
    ids = random_ids("plain")
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    pair = convert_checkpoint(folder, tmp_path, text_type="f32")
    assert relative_error(text_logits(pair.text, ids)[:, :VOCABULARY], expected) < BOUNDS["f32"]
