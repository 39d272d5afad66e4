"""Read an mmproj file's configuration, and check its tensors against it."""

import hashlib
from typing import Any

from visionward.errors import ModelFileError
from visionward.formats import mmproj_format as form
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.gguf_values import each, number, only, text, truth, whole
from visionward.formats.key_table import Converter, read_keys
from visionward.formats.mmproj_format import (
    EMBEDDING_TABLES,
    EPSILON,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_PIXELS,
    MAX_TILES,
    MAX_TOKENS,
    MAX_WIDTH,
    CrossAttentionConfig,
    MmprojConfig,
    VisionConfig,
    all_aspect_ratios,
)
from visionward.formats.regular_file import open_regular
from visionward.formats.tensor_checksums import has_checksums
from visionward.formats.tensor_table import MATRIX, NUMBERS, VECTOR, ExpectedTensor, check_tensors

_CLIP = "clip.vision."


def _three(low: float, high: float) -> Converter:
    """A converter for three numbers in a range, one per channel."""
    numbers = each(number(low, high), max_count=3)

    def convert(value: Any) -> tuple[float, float, float]:
        red, green, blue = numbers(value)
        return red, green, blue

    return convert


_KEYS: dict[str, Converter] = {
    "clip.has_vision_encoder": only(True),
    "clip.projector_type": only(form.PROJECTOR_TYPE),
    "clip.use_gelu": only(True),
    _CLIP + "image_size": whole(1, MAX_PIXELS),
    _CLIP + "patch_size": whole(1, MAX_PIXELS),
    _CLIP + "embedding_length": whole(1, MAX_WIDTH),
    _CLIP + "feed_forward_length": whole(1, MAX_WIDTH),
    _CLIP + "projection_dim": whole(1, MAX_WIDTH),
    _CLIP + "block_count": whole(1, MAX_LAYERS),
    _CLIP + "attention.head_count": whole(1, MAX_HEADS),
    _CLIP + "attention.layer_norm_epsilon": EPSILON,
    # Pixels are between 0 and 1 before they are normalized.
    _CLIP + "image_mean": _three(0, 1),
    _CLIP + "image_std": _three(0.01, 10),
    form.KEY_FORMAT_VERSION: whole(0, form.FORMAT_VERSION),
    form.KEY_TEXT_HASH: text,
    form.KEY_VOCAB_ROWS: whole(1, MAX_TOKENS),
    form.KEY_IMAGE_TOKEN_ID: whole(0, MAX_TOKENS),
    form.KEY_GLOBAL_BLOCK_COUNT: whole(1, MAX_LAYERS),
    form.KEY_MAX_TILES: whole(1, MAX_TILES),
    form.KEY_ASPECT_RATIOS: each(whole(1, MAX_TILES), max_count=2 * MAX_TILES**2),
    form.KEY_INTERMEDIATE_LAYERS: each(whole(0, MAX_LAYERS), max_count=MAX_LAYERS),
    form.KEY_PADDING_COLLAPSES: truth,
    form.KEY_CROSS_LAYERS: each(whole(1, MAX_LAYERS), max_count=MAX_LAYERS),
    form.KEY_TEXT_BLOCK_COUNT: whole(1, MAX_LAYERS),
    form.KEY_TEXT_EMBEDDING_LENGTH: whole(1, MAX_WIDTH),
    form.KEY_TEXT_FEED_FORWARD_LENGTH: whole(1, MAX_WIDTH),
    form.KEY_TEXT_HEAD_COUNT: whole(1, MAX_HEADS),
    form.KEY_TEXT_HEAD_COUNT_KV: whole(1, MAX_HEADS),
    form.KEY_TEXT_RMS_EPSILON: EPSILON,
}
_OPTIONAL_KEYS: dict[str, Converter] = {
    **form.CHECKSUM_KEYS,
    form.KEY_LICENSE_NOTICE: text,
    form.KEY_DEMONSTRATION: truth,
}


def read_mmproj_config(file: GgufHeader) -> MmprojConfig:
    """Read the configuration of an mmproj file.

    Raises:
        ModelFileError: if the projector type or the format version is another one, or if a key is missing, unknown, or
            out of range.
    """
    # Checked first: files of other projectors have other keys.
    projector = file.get("clip.projector_type", text)
    if projector != form.PROJECTOR_TYPE:
        raise ModelFileError(f"{file.path} has projector type {projector!r}, expected {form.PROJECTOR_TYPE!r}.")
    has_checksums(file)
    values = read_keys(file, _KEYS, _OPTIONAL_KEYS)
    ratios = values[form.KEY_ASPECT_RATIOS]
    vision = VisionConfig(
        tile_size=values[_CLIP + "image_size"],
        patch_size=values[_CLIP + "patch_size"],
        width=values[_CLIP + "embedding_length"],
        feed_forward_length=values[_CLIP + "feed_forward_length"],
        head_count=values[_CLIP + "attention.head_count"],
        local_layers=values[_CLIP + "block_count"],
        global_layers=values[form.KEY_GLOBAL_BLOCK_COUNT],
        intermediate_layers=values[form.KEY_INTERMEDIATE_LAYERS],
        max_tiles=values[form.KEY_MAX_TILES],
        aspect_ratios=tuple(zip(ratios[::2], ratios[1::2], strict=True)) if len(ratios) % 2 == 0 else (),
        layer_norm_epsilon=values[_CLIP + "attention.layer_norm_epsilon"],
        image_mean=values[_CLIP + "image_mean"],
        image_std=values[_CLIP + "image_std"],
        padding_collapses=values[form.KEY_PADDING_COLLAPSES],
    )
    cross = CrossAttentionConfig(
        layers=values[form.KEY_CROSS_LAYERS],
        self_attention_layers=values[form.KEY_TEXT_BLOCK_COUNT],
        embedding_length=values[form.KEY_TEXT_EMBEDDING_LENGTH],
        feed_forward_length=values[form.KEY_TEXT_FEED_FORWARD_LENGTH],
        head_count=values[form.KEY_TEXT_HEAD_COUNT],
        head_count_kv=values[form.KEY_TEXT_HEAD_COUNT_KV],
        rms_epsilon=values[form.KEY_TEXT_RMS_EPSILON],
        vocab_rows=values[form.KEY_VOCAB_ROWS],
        image_token_id=values[form.KEY_IMAGE_TOKEN_ID],
    )
    config = MmprojConfig(vision, cross, values[form.KEY_TEXT_HASH], bool(values[form.KEY_DEMONSTRATION]))
    _check_config(file, config, projection=values[_CLIP + "projection_dim"])
    return config


def _check_config(file: GgufHeader, config: MmprojConfig, *, projection: int) -> None:
    vision, cross = config.vision, config.cross_attention
    total = cross.self_attention_layers + len(cross.layers)
    sound = {
        "tile and patch size": vision.tile_size >= vision.patch_size,
        "vision heads": vision.width % vision.head_count == 0,
        "aspect ratios": vision.aspect_ratios == all_aspect_ratios(vision.max_tiles),
        "intermediate layers": bool(vision.intermediate_layers)
        and list(vision.intermediate_layers) == sorted(set(vision.intermediate_layers))
        and all(i < vision.local_layers for i in vision.intermediate_layers),
        "projector": projection == cross.embedding_length,
        "text heads": cross.embedding_length % cross.head_count == 0 and cross.head_count % cross.head_count_kv == 0,
        "cross-attention layers": bool(cross.layers)
        and list(cross.layers) == sorted(set(cross.layers))
        and all(0 < i < total - 1 for i in cross.layers),
    }
    wrong = [name for name, good in sound.items() if not good]
    if wrong:
        raise ModelFileError(f"{file.path} has invalid metadata ({', '.join(wrong)}): convert the model again.")


def expected_tensor(name: str, shape: tuple[int, ...]) -> ExpectedTensor:
    """What is required of a tensor. Vectors are added and multiplied elementwise, and rows of tables are added."""
    if len(shape) == 1:
        return ExpectedTensor(shape, VECTOR, may_be_zero=name.endswith(".bias"))
    return ExpectedTensor(shape, NUMBERS if name in EMBEDDING_TABLES else MATRIX)


def check_mmproj_tensors(file: GgufHeader, config: MmprojConfig) -> None:
    """Check names, shapes, element types, and the values of vectors.

    Raises:
        ModelFileError: if a tensor is missing, unknown, or has a wrong shape or an unsupported type, or if a vector has
            values that are not finite, or only zeros where a trained model has none.
    """
    shapes = form.tensor_shapes(config.vision, config.cross_attention)
    check_tensors(file, {name: expected_tensor(name, shape) for name, shape in shapes.items()})


def tower_hash(file: GgufHeader) -> str:
    """A hash that differs between towers of the same shape, and does not depend on the type of their matrices.

    It covers the tower's one-dimensional tensors: hundreds of norms, biases and gates, which are float32 in every file
    that is made from a checkpoint.
    """
    digest = hashlib.sha256()
    with open_regular(file.path) as opened:
        for name, stored in sorted(file.tensors.items()):
            if len(stored.shape) == 1 and not name.startswith("cross."):
                opened.seek(stored.offset)
                digest.update(name.encode() + b"\0" + opened.read(stored.nbytes))
    return digest.hexdigest()
