"""Plan the mmproj file: tensors and keys of the vision tower, the projector and the cross-attention layers."""

from collections.abc import Mapping

import numpy as np
from gguf import Keys

from visionward.convert.encoding import PlannedTensor, projector_reorder
from visionward.convert.model_config import ModelConfig
from visionward.convert.tensor_names import mmproj_names
from visionward.formats import mmproj_format
from visionward.formats.gguf_file import Metadata, MetadataValue
from visionward.formats.mmproj_format import VisionConfig, tensor_shapes
from visionward.formats.safetensors_reader import CheckpointTensor
from visionward.quant.tensor_types import Recipe, element_type

# Tables whose rows for unused tiles must be zero if padding is collapsed: (name, whether it has a row per token).
_TILE_TABLES = (
    ("v.pre_tile_embd.weight", False),
    ("v.post_tile_embd.weight", False),
    ("v.tile_position_embd.weight", True),
)


def plan_mmproj(config: ModelConfig, stored: Mapping[str, CheckpointTensor], recipe: Recipe) -> list[PlannedTensor]:
    """The tensors of the mmproj file, in file order."""
    sources = {name: stored[source_name] for source_name, name in mmproj_names(config).items()}
    interleaved = projector_reorder(config.vision.width, len(config.vision.intermediate_layers))
    return [
        PlannedTensor(
            name,
            shape,
            element_type(recipe, name, shape, len(config.cross_attention.layers)),
            sources[name],
            interleaved if name == "mm.0.weight" else None,
        )
        for name, shape in tensor_shapes(config.vision, config.cross_attention).items()
    ]


def _unused_rows_are_zero(table: CheckpointTensor, vision: VisionConfig, tile_length: int) -> bool:
    """Whether the rows for tiles that a canvas does not have are zero. Id 0, which means no image, is never used."""
    used = [high * wide for high, wide in vision.aspect_ratios]
    # The sign of a zero does not matter, so it is shifted out.
    chunks = table.chunks(tile_length)
    row = 0
    for chunk in chunks:
        nonzero = np.any((chunk.view(f"<u{chunk.dtype.itemsize}") << 1) != 0, axis=1)
        for offset in np.flatnonzero(nonzero):
            ratio_id, tile = divmod(row + int(offset), vision.max_tiles)
            if ratio_id > 0 and tile >= used[ratio_id - 1]:
                return False
        row += len(chunk)
    return True


def padding_collapses(config: ModelConfig, stored: Mapping[str, CheckpointTensor]) -> bool:
    """Whether all padding tiles are identical, so that one can stand for all of them."""
    vision = config.vision
    sources = {name: stored[source_name] for source_name, name in mmproj_names(config).items()}
    return all(
        _unused_rows_are_zero(sources[name], vision, vision.width * (vision.tile_tokens if each_token else 1))
        for name, each_token in _TILE_TABLES
    )


def mmproj_metadata(config: ModelConfig, general: Metadata, text_hash: str) -> dict[str, MetadataValue]:
    """All keys of the mmproj file."""
    vision, cross = config.vision, config.cross_attention
    return {
        **general,
        Keys.Clip.HAS_VISION_ENCODER: True,
        Keys.Clip.PROJECTOR_TYPE: mmproj_format.PROJECTOR_TYPE,
        Keys.ClipVision.USE_GELU: True,
        Keys.ClipVision.IMAGE_SIZE: vision.tile_size,
        Keys.ClipVision.PATCH_SIZE: vision.patch_size,
        Keys.ClipVision.EMBEDDING_LENGTH: vision.width,
        Keys.ClipVision.FEED_FORWARD_LENGTH: vision.feed_forward_length,
        Keys.ClipVision.PROJECTION_DIM: cross.embedding_length,
        Keys.ClipVision.BLOCK_COUNT: vision.local_layers,
        Keys.ClipVision.Attention.HEAD_COUNT: vision.head_count,
        Keys.ClipVision.Attention.LAYERNORM_EPS: vision.layer_norm_epsilon,
        Keys.ClipVision.IMAGE_MEAN: vision.image_mean,
        Keys.ClipVision.IMAGE_STD: vision.image_std,
        mmproj_format.KEY_FORMAT_VERSION: mmproj_format.FORMAT_VERSION,
        mmproj_format.KEY_TEXT_HASH: text_hash,
        mmproj_format.KEY_VOCAB_ROWS: cross.vocab_rows,
        mmproj_format.KEY_IMAGE_TOKEN_ID: cross.image_token_id,
        mmproj_format.KEY_GLOBAL_BLOCK_COUNT: vision.global_layers,
        mmproj_format.KEY_MAX_TILES: vision.max_tiles,
        mmproj_format.KEY_ASPECT_RATIOS: [side for ratio in vision.aspect_ratios for side in ratio],
        mmproj_format.KEY_INTERMEDIATE_LAYERS: vision.intermediate_layers,
        mmproj_format.KEY_PADDING_COLLAPSES: vision.padding_collapses,
        mmproj_format.KEY_CROSS_LAYERS: cross.layers,
        mmproj_format.KEY_TEXT_BLOCK_COUNT: cross.self_attention_layers,
        mmproj_format.KEY_TEXT_EMBEDDING_LENGTH: cross.embedding_length,
        mmproj_format.KEY_TEXT_FEED_FORWARD_LENGTH: cross.feed_forward_length,
        mmproj_format.KEY_TEXT_HEAD_COUNT: cross.head_count,
        mmproj_format.KEY_TEXT_HEAD_COUNT_KV: cross.head_count_kv,
        mmproj_format.KEY_TEXT_RMS_EPSILON: cross.rms_epsilon,
    }
