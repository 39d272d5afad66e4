"""The memory budget of the vision tower on a CPU, and what each engine needs for it."""

import platform
from pathlib import Path

from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_format import CrossAttentionConfig, MmprojConfig, VisionConfig
from visionward.formats.onnx_format import TowerIdentity
from visionward.machine.processor import read_memory
from visionward.runtime.vision.openvino_session import best_precision

# Python, the libraries, the vocabulary and the decoder's compute buffer without the scores of its attention.
_PROCESS_BYTES = 500 * 2**20

# Architectures on which the KV cache may be float32 (ggml/float16_sums.py).
_ARM = ("aarch64", "arm64")

_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "int8": 1.0}
# OpenVINO keeps what int8 leaves in float16 as float32.
_OPENVINO_BYTES = _BYTES | {"int8": 1.4}
# What the engines keep of a run, in multiples of the activations of a layer. Measured at the 11B shape with four
# tiles: OpenVINO 1.8 GB in bf16 and 2.4 GB in f32.
_ACTIVATIONS = {"onnx": 1, "openvino": 4}


def _weights(vision: VisionConfig, width: int) -> int:
    """Weights of the tower's matrices."""
    layer = 4 * vision.width**2 + 2 * vision.width * vision.feed_forward_length
    return (vision.local_layers + vision.global_layers) * layer + vision.feature_width * width


def activation_bytes(vision: VisionConfig, max_tiles: int | None = None) -> int:
    """Peak bytes of a layer and the features, float32, for an image of at most ``max_tiles`` tiles."""
    tiles = vision.max_tiles
    if max_tiles is not None and vision.padding_collapses:
        # One tile stands for all unused ones.
        tiles = min(max_tiles + 1, tiles)
    tokens = tiles * vision.tile_tokens + vision.max_tiles * vision.tile_padding
    return 4 * tokens * (vision.feature_width + 2 * vision.feed_forward_length + 6 * vision.width)


def tower_bytes(backend: str, identity: TowerIdentity, vision: VisionConfig, max_tiles: int | None = None) -> int:
    """Bytes that an ONNX tower takes: its mapped file, the engine's own copy of the weights, and the activations.

    ONNX Runtime packs copies of float32 and int8 matrices and widens float16 ones to float32. OpenVINO packs copies
    in the precision that it computes in.

    Args:
        backend: the engine.
        identity: the tower's.
        vision: its shape.
        max_tiles: the maximum number of tiles of an image; None for the model's.
    """
    kept = identity.weight_type
    if kept != "int8":
        kept = best_precision(kept) if backend == "openvino" else "f32"
    copied = (_OPENVINO_BYTES if backend == "openvino" else _BYTES)[kept] * _weights(vision, identity.width)
    return identity.data_bytes + int(copied) + _ACTIVATIONS[backend] * activation_bytes(vision, max_tiles)


def tower_memory_budget(
    limit: int | None,
    text: Path,
    mmproj: GgufHeader,
    config: MmprojConfig,
    *,
    cells: int,
    ubatch: int,
    max_tiles: int | None = None,
) -> int | None:
    """Bytes that a limit leaves for the tower; None if there is no limit.

    Args:
        limit: the caller's, in bytes. A container's limit applies too; the smaller of the two counts.
        text: the text file.
        mmproj: the mmproj file.
        config: its configuration.
        cells: cells of the KV cache.
        ubatch: tokens per graph of the decoder.
        max_tiles: the maximum number of tiles of an image; None for the model's.
    """
    limits = [value for value in (limit, read_memory().limit) if value is not None]
    if not limits:
        return None
    return min(limits) - bytes_without_tower(text, mmproj, config, cells=cells, ubatch=ubatch, max_tiles=max_tiles)


def bytes_without_tower(
    text: Path,
    mmproj: GgufHeader,
    config: MmprojConfig,
    *,
    cells: int,
    ubatch: int,
    max_tiles: int | None = None,
) -> int:
    """Memory that a classification takes besides the vision tower.

    The text file, the cross-attention layers, the KV cache, the scores of a graph that attends to all of it, the keys
    and values of one image in use and one in the cache, those of one layer in float32, and the process itself.

    Args:
        text: the text file.
        mmproj: the mmproj file.
        config: its configuration.
        cells: of the KV cache.
        ubatch: tokens that the decoder computes in one graph.
        max_tiles: the maximum number of tiles of an image; None for the model's.
    """
    cross, vision = config.cross_attention, config.vision
    layers = sum(tensor.nbytes for name, tensor in mmproj.tensors.items() if name.startswith("cross."))
    text_bytes = text.stat().st_size if text.is_file() else 0
    kv_cache = cells * cross.self_attention_layers * _kv_bytes(cross)
    if platform.machine().lower() in _ARM:
        kv_cache *= 2
    scores = 4 * cross.head_count * ubatch * cells
    layer = (max_tiles or vision.max_tiles) * vision.tile_tokens * _kv_bytes(cross)
    images = 2 * len(cross.layers) * layer + 2 * layer
    return text_bytes + layers + kv_cache + scores + images + _PROCESS_BYTES


def _kv_bytes(cross: CrossAttentionConfig) -> int:
    """Bytes of a token's keys and values in one layer, float16."""
    return 2 * 2 * cross.head_count_kv * cross.head_width
