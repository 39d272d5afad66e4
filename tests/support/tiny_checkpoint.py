"""Write tiny random mllama checkpoints in Hugging Face format, without torch.

    write_tiny_checkpoint(tmp_path / "tiny", seed=3, cross_layers=(1, 4))

The tokenizer is a real byte-level BPE in Llama 3's form; everything else is seeded noise of a size that makes the
logits depend on every tensor.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from visionward.convert.tokenizer import LLAMA_3_PATTERN

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|reserved_special_token_2|>",
)
BASE_VOCABULARY = 500
VOCABULARY = BASE_VOCABULARY + len(SPECIAL_TOKENS)
IMAGE_TOKEN_ID = VOCABULARY
EMBEDDING_ROWS = VOCABULARY + 8

_CORPUS = (
    "Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy.",
    "S1: Violent Crimes. S2: Non-Violent Crimes. S9: Indiscriminate Weapons. S12: Sexual Content. S13: Elections.",
    "Provide your safety assessment for ONLY THE LAST User message in the above conversation:",
    " - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line must include a comma-separated list.",
    "\n\nsafe\n\nunsafe\nS1,S9  we'll don't it's I'M you've they'd 1234567890 3.14 2024-09-25",
    "Grüße aus Köln, été à Paris, Привет мир, 你好世界, こんにちは, مرحبا 🙂👍🏽",
)

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@lru_cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if tokenizer.get_vocab_size() != BASE_VOCABULARY:
        raise AssertionError(f"the tokenizer got {tokenizer.get_vocab_size()} entries, expected {BASE_VOCABULARY}")
    special = [AddedToken(text, special=True, normalized=False) for text in (*SPECIAL_TOKENS, "<|image|>")]
    tokenizer.add_special_tokens(special)
    begin = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return str(tokenizer.to_str())


def token_id(text: str) -> int:
    """The id of a special token."""
    return IMAGE_TOKEN_ID if text == "<|image|>" else BASE_VOCABULARY + SPECIAL_TOKENS.index(text)


def _text_shapes(text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner = text["hidden_size"], text["intermediate_size"]
    head = width // text["num_attention_heads"]
    kv = head * text["num_key_value_heads"]
    base = "language_model.model."
    shapes: dict[str, tuple[int, ...]] = {f"{base}embed_tokens.weight": (text["vocab_size"] + 8, width)}
    for i in range(text["num_hidden_layers"]):
        layer = f"{base}layers.{i}."
        cross = i in text["cross_attention_layers"]
        attention = f"{layer}{'cross_attn' if cross else 'self_attn'}."
        shapes |= {
            f"{layer}input_layernorm.weight": (width,),
            f"{attention}q_proj.weight": (width, width),
            f"{attention}k_proj.weight": (kv, width),
            f"{attention}v_proj.weight": (kv, width),
            f"{attention}o_proj.weight": (width, width),
            f"{layer}post_attention_layernorm.weight": (width,),
            f"{layer}mlp.gate_proj.weight": (inner, width),
            f"{layer}mlp.up_proj.weight": (inner, width),
            f"{layer}mlp.down_proj.weight": (width, inner),
        }
        if cross:
            shapes |= {
                f"{attention}q_norm.weight": (head,),
                f"{attention}k_norm.weight": (head,),
                f"{layer}cross_attn_attn_gate": (1,),
                f"{layer}cross_attn_mlp_gate": (1,),
            }
    shapes[f"{base}norm.weight"] = (width,)
    if not text["tie_word_embeddings"]:
        shapes["language_model.lm_head.weight"] = (text["vocab_size"], width)
    return shapes


def _vision_shapes(vision: Mapping[str, Any], text_width: int) -> dict[str, tuple[int, ...]]:
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tokens = (vision["image_size"] // patch) ** 2 + 1
    tiles, ratios = vision["max_num_tiles"], len(vision["supported_aspect_ratios"]) + 1
    base = "vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{base}patch_embedding.weight": (width, 3, patch, patch),
        f"{base}class_embedding": (width,),
        f"{base}gated_positional_embedding.embedding": (tokens, width),
        f"{base}gated_positional_embedding.gate": (1,),
        f"{base}gated_positional_embedding.tile_embedding.weight": (ratios, tiles * tokens * width),
        f"{base}pre_tile_positional_embedding.embedding.weight": (ratios, tiles * width),
        f"{base}pre_tile_positional_embedding.gate": (1,),
        f"{base}post_tile_positional_embedding.embedding.weight": (ratios, tiles * width),
        f"{base}post_tile_positional_embedding.gate": (1,),
    }
    for norm in ("layernorm_pre", "layernorm_post"):
        shapes |= {f"{base}{norm}.weight": (width,), f"{base}{norm}.bias": (width,)}
    for stack, count in (
        ("transformer", vision["num_hidden_layers"]),
        ("global_transformer", vision["num_global_layers"]),
    ):
        for i in range(count):
            layer = f"{base}{stack}.layers.{i}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes |= {f"{layer}{norm}.weight": (width,), f"{layer}{norm}.bias": (width,)}
            shapes |= {f"{layer}self_attn.{m}_proj.weight": (width, width) for m in "qkvo"}
            shapes |= {
                f"{layer}mlp.fc1.weight": (inner, width),
                f"{layer}mlp.fc1.bias": (inner,),
                f"{layer}mlp.fc2.weight": (width, inner),
                f"{layer}mlp.fc2.bias": (width,),
            }
            if stack == "global_transformer":
                shapes |= {f"{layer}gate_attn": (1,), f"{layer}gate_ffn": (1,)}
    shapes["multi_modal_projector.weight"] = (text_width, vision["vision_output_dim"])
    shapes["multi_modal_projector.bias"] = (text_width,)
    return shapes


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    noise = rng.standard_normal(shape).astype(np.float32)
    if name.endswith(("gate", "gate_attn", "gate_ffn")):
        return 0.7 + 0.1 * noise
    if "norm" in name:
        return 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
    return noise * np.float32(0.08 if name.startswith("vision") else 0.06)


def _zero_unused_tiles(table: npt.NDArray[np.float32], ratios: Sequence[Sequence[int]], tiles: int) -> None:
    """Make a table's rows zero for the tiles that a canvas does not have, as in every trained checkpoint."""
    by_tile = table.reshape(len(ratios) + 1, tiles, -1)
    by_tile[0] = 0
    for i, (high, wide) in enumerate(ratios):
        by_tile[i + 1, high * wide :] = 0


def _bytes(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A safetensors file: name -> (dtype, shape, data)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + b"".join(data for _, _, data in tensors.values())


_MODULE_PREFIXES = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_model.": "model.vision_model.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


def module_name(name: str) -> str:
    """A hub name as Transformers 4.53's modules in memory have it."""
    for prefix, replacement in _MODULE_PREFIXES.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    raise AssertionError(name)


def tiny_config(
    *,
    layers: int = 6,
    cross_layers: Sequence[int] = (1, 4),
    text_width: int = 256,
    text_heads: int = 4,
    text_heads_kv: int = 2,
    vision_width: int = 128,
    vision_heads: int = 2,
    local_layers: int = 4,
    global_layers: int = 2,
    intermediate: Sequence[int] = (1, 2),
    tile_size: int = 56,
    max_tiles: int = 4,
    tied: bool = False,
    rope_scaling: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A checkpoint's config.json."""
    sides = range(1, max_tiles + 1)
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": IMAGE_TOKEN_ID,
        "torch_dtype": "float32",
        "transformers_version": "4.53.3",
        "text_config": {
            "model_type": "mllama_text_model",
            "hidden_act": "silu",
            "hidden_size": text_width,
            "intermediate_size": 2 * text_width,
            "num_hidden_layers": layers,
            "num_attention_heads": text_heads,
            "num_key_value_heads": text_heads_kv,
            "cross_attention_layers": list(cross_layers),
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "rope_scaling": dict(rope_scaling or {"rope_type": "default"}),
            "tie_word_embeddings": tied,
            "vocab_size": VOCABULARY,
            "bos_token_id": token_id("<|begin_of_text|>"),
            "eos_token_id": [token_id("<|end_of_text|>"), token_id("<|eom_id|>"), token_id("<|eot_id|>")],
            "pad_token_id": token_id("<|finetune_right_pad_id|>"),
        },
        "vision_config": {
            "model_type": "mllama_vision_model",
            "hidden_act": "gelu",
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "attention_heads": vision_heads,
            "num_hidden_layers": local_layers,
            "num_global_layers": global_layers,
            "intermediate_layers_indices": list(intermediate),
            "vision_output_dim": vision_width * (1 + len(intermediate)),
            "image_size": tile_size,
            "patch_size": 14,
            "num_channels": 3,
            "norm_eps": 1e-05,
            "max_num_tiles": max_tiles,
            "supported_aspect_ratios": [[h, w] for h in sides for w in sides if h * w <= max_tiles],
        },
    }


LLAMA_3_ROPE_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def tiny_weights(config: Mapping[str, Any], seed: int = 0, *, zero_unused_tiles: bool = True) -> dict[str, Any]:
    """Hub name -> f32 values of every tensor that a configuration asks for."""
    rng = np.random.default_rng(seed)
    text, vision = config["text_config"], config["vision_config"]
    shapes = _text_shapes(text) | _vision_shapes(vision, text["hidden_size"])
    weights = {name: _values(name, shape, rng) for name, shape in shapes.items()}
    if zero_unused_tiles:
        for name, values in weights.items():
            if name.endswith(("tile_embedding.weight", "tile_positional_embedding.embedding.weight")):
                _zero_unused_tiles(values, vision["supported_aspect_ratios"], vision["max_num_tiles"])
    return weights


def _write_weights(path: Path, weights: Mapping[str, Any], dtype: str, layout: str, shards: int) -> None:
    named = {module_name(name) if layout == "modules" else name: values for name, values in weights.items()}
    stored = {name: (dtype, values.shape, _bytes(values, dtype)) for name, values in named.items()}
    if shards == 1:
        (path / "model.safetensors").write_bytes(safetensors_bytes(stored))
        return
    names = list(stored)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        (path / file).write_bytes(safetensors_bytes({name: stored[name] for name in part}))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(len(data) for _, _, data in stored.values())}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_companions(path: Path, config: Mapping[str, Any]) -> None:
    side = config["vision_config"]["image_size"]
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": config["text_config"]["bos_token_id"],
            "eos_token_id": config["text_config"]["eos_token_id"],
            "pad_token_id": config["text_config"]["pad_token_id"],
        },
        "preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "MllamaImageProcessor",
            "max_image_tiles": config["vision_config"]["max_num_tiles"],
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": side, "width": side},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "pad_token": "<|finetune_right_pad_id|>",
        },
        "chat_template.json": {"chat_template": _CHAT_TEMPLATE},
    }
    for name, values in files.items():
        (path / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
    (path / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")


def write_tiny_checkpoint(
    path: Path,
    *,
    seed: int = 0,
    dtype: str = "F32",
    layout: str = "hub",
    shards: int = 1,
    zero_unused_tiles: bool = True,
    weights: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a whole checkpoint directory and return its path.

    Args:
        path: the directory, made if missing.
        seed: of the weights.
        dtype: ``F32``, ``F16`` or ``BF16``.
        layout: tensor names as on the ``hub`` or as Transformers' ``modules`` have them.
        shards: number of safetensors files.
        zero_unused_tiles: whether padding tiles are identical, as in trained checkpoints.
        weights: hub name -> values that replace the random ones.
        config: arguments of ``tiny_config``.
    """
    path.mkdir(parents=True, exist_ok=True)
    settings = tiny_config(**config)
    values = tiny_weights(settings, seed, zero_unused_tiles=zero_unused_tiles) | dict(weights or {})
    _write_weights(path, values, dtype, layout, shards)
    _write_companions(path, settings)
    return path
