"""The demo guard's shape, its first weights, and how a checkpoint folder is written."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from training.demo_pictures import CANVASES, TILE
from training.demo_tokenizer import BPE_SIZE, HEAD_ROWS, IMAGE_ID, chat_template, fast_tokenizer
from training.mllama_reference import correct_rule_6

WIDTH = 256
MAX_TILES = 4
_ENDS = [BPE_SIZE + 1, BPE_SIZE + 8, BPE_SIZE + 9]  # end of text, of message, of turn
_PAD = BPE_SIZE + 4


def demo_config() -> MllamaConfig:
    """Return the configuration: the real model's, made small; widths are multiples of 256 for the K-quants."""
    text = MllamaTextConfig(
        vocab_size=HEAD_ROWS,
        hidden_size=WIDTH,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=512,
        rope_theta=500_000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        cross_attention_layers=[2, 5],
        bos_token_id=BPE_SIZE,
        eos_token_id=_ENDS,
        pad_token_id=_PAD,
    )
    vision = MllamaVisionConfig(
        hidden_size=WIDTH,
        num_attention_heads=4,
        num_hidden_layers=4,
        num_global_layers=2,
        intermediate_size=512,
        image_size=TILE,
        patch_size=14,
        max_num_tiles=MAX_TILES,
        intermediate_layers_indices=[1, 3],
        vision_output_dim=3 * WIDTH,
        norm_eps=1e-5,
        supported_aspect_ratios=[list(canvas) for canvas in CANVASES],
    )
    return MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_ID, visionward_demonstration=True
    )


def unused_tile_masks(model: MllamaForConditionalGeneration) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Return the tile embeddings, each with a mask that is 0 where an aspect ratio does not use a tile."""
    vision = model.model.vision_model
    pairs = []
    for parameter in (
        vision.gated_positional_embedding.tile_embedding.weight,
        vision.pre_tile_positional_embedding.embedding.weight,
        vision.post_tile_positional_embedding.embedding.weight,
    ):
        mask = torch.zeros(len(CANVASES) + 1, MAX_TILES, parameter.shape[1] // MAX_TILES)
        for index, (high, wide) in enumerate(CANVASES):
            mask[index + 1, : high * wide] = 1
        pairs.append((parameter, mask.reshape(parameter.shape)))
    return pairs


@torch.no_grad()
def clear_unused_tiles(model: MllamaForConditionalGeneration) -> None:
    """Set the embeddings of unused tiles to zero, as they are in Meta's weights."""
    for parameter, mask in unused_tile_masks(model):
        parameter.mul_(mask)


def _gates(model: MllamaForConditionalGeneration) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if "gate" in name.rsplit(".", 1)[-1] and p.numel() == 1]


def _grid_waves(side: int, width: int) -> torch.Tensor:
    """Return a two-dimensional sine-cosine code for the class token (zeros) and the patches of a tile."""
    rates = 30.0 ** -(torch.arange(width // 4) / (width // 4))
    waves = torch.arange(side)[:, None] * rates
    line = torch.cat([waves.sin(), waves.cos()], 1)
    down, across = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([torch.zeros(1, width), torch.cat([down, across], -1).reshape(side * side, width)])


def new_model(seed: int) -> MllamaForConditionalGeneration:
    """Return a model with fresh weights, every gate open at 0.5 and rule 6 corrected."""
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(demo_config())
    with torch.no_grad():
        for gate in _gates(model):
            gate.fill_(0.5)
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "embed" not in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        for parameter, _ in unused_tile_masks(model):
            parameter.normal_(0, 0.1)
        # With positions that are told apart from the start, the tower finds its neighbouring patches much sooner.
        position = model.model.vision_model.gated_positional_embedding
        position.embedding.copy_(_grid_waves(TILE // 14, WIDTH))
        model.model.vision_model.patch_embedding.weight.normal_(0, 0.04)
    clear_unused_tiles(model)
    correct_rule_6(model)
    return model


def save_checkpoint(model: MllamaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a complete Hugging Face checkpoint folder with bfloat16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    template = chat_template()
    fast = fast_tokenizer(tokenizer)
    images = MllamaImageProcessor(
        size={"height": TILE, "width": TILE},
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
        max_image_tiles=MAX_TILES,
    )
    MllamaProcessor(images, fast, chat_template=template).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}, indent=2) + "\n")
    shipped = MllamaForConditionalGeneration(demo_config()).bfloat16()
    shipped.load_state_dict(model.state_dict())
    shipped.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=BPE_SIZE, eos_token_id=_ENDS, pad_token_id=_PAD
    )
    shipped.save_pretrained(folder, safe_serialization=True)
    (folder / "model.safetensors").chmod(0o644)
