"""The format of the mmproj GGUF: keys, tensors and the configuration that the keys describe (docs/mmproj-format.md).

Names are those of gguf-py if it has one (``v.*``, ``mm.*``, ``clip.vision.*``). Keys without a name in llama.cpp are
under ``visionward.*``, tensors under ``v.global.*`` and ``cross.*``.
"""

from dataclasses import dataclass

from gguf import Keys

from visionward.formats.gguf_values import number, strings, text

# Files of version 2 have checksums. Files of version 1 have none and are read with a warning.
FORMAT_VERSION = 2
VERSION_WITHOUT_CHECKSUMS = 1
MMPROJ_ARCHITECTURE = "clip"
PROJECTOR_TYPE = "mllama"

# Keys of both files of a pair. Two files belong together if their text hashes are equal.
KEY_FORMAT_VERSION = "visionward.format_version"
KEY_TEXT_HASH = "visionward.text_hash"
KEY_VOCAB_ROWS = "visionward.vocab_rows"
KEY_IMAGE_TOKEN_ID = "visionward.image_token_id"  # noqa: S105 - a key's name, not a secret
KEY_HEADER_CHECKSUM = "visionward.header_sha256"
KEY_TENSOR_CHECKSUMS = "visionward.tensor_sha256"
KEY_LICENSE_NOTICE = "visionward.license_notice"
LICENSE_KEYS = (Keys.General.LICENSE, Keys.General.LICENSE_NAME, Keys.General.LICENSE_LINK, KEY_LICENSE_NOTICE)
# In both files of a demonstration model; missing in others.
KEY_DEMONSTRATION = "visionward.demonstration"

CHECKSUM_KEYS = {KEY_HEADER_CHECKSUM: text, KEY_TENSOR_CHECKSUMS: strings}
# The value of a checksum key until the checksum is known.
CHECKSUM_PLACEHOLDER = "0" * 64

# Keys of the text file alone.
KEY_END_TOKEN_IDS = "visionward.end_token_ids"  # noqa: S105 - a key's name, not a secret

# Keys of the mmproj file alone.
KEY_GLOBAL_BLOCK_COUNT = "visionward.vision.global_block_count"
KEY_MAX_TILES = "visionward.vision.max_tiles"
KEY_ASPECT_RATIOS = "visionward.vision.aspect_ratios"
KEY_INTERMEDIATE_LAYERS = "visionward.vision.intermediate_layers"
KEY_PADDING_COLLAPSES = "visionward.vision.padding_collapses"
KEY_CROSS_LAYERS = "visionward.cross_attention.layers"
KEY_TEXT_BLOCK_COUNT = "visionward.text.block_count"
KEY_TEXT_EMBEDDING_LENGTH = "visionward.text.embedding_length"
KEY_TEXT_FEED_FORWARD_LENGTH = "visionward.text.feed_forward_length"
KEY_TEXT_HEAD_COUNT = "visionward.text.attention.head_count"
KEY_TEXT_HEAD_COUNT_KV = "visionward.text.attention.head_count_kv"
KEY_TEXT_RMS_EPSILON = "visionward.text.attention.layer_norm_rms_epsilon"

# Tables that the vision tower adds to its hidden state. They are not multiplied, so quantizing them saves no time.
EMBEDDING_TABLES = frozenset(
    {
        "v.position_embd.weight",
        "v.tile_position_embd.weight",
        "v.pre_tile_embd.weight",
        "v.post_tile_embd.weight",
    }
)

# Limits far beyond any model of this architecture. A damaged number that exceeds one is refused before it is used.
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_WIDTH = 2**20
MAX_TOKENS = 2**24
MAX_TILES = 64
MAX_PIXELS = 2**14
EPSILON = number(1e-12, 1e-2)

# The tokens of a tile are padded to a multiple of this (Meta's encoder_utils.py, Transformers' modeling_mllama.py).
TILE_TOKENS_MULTIPLE = 8


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the vision tower and of its input.

    Attributes:
        tile_size: side of a tile in pixels.
        patch_size: side of a patch in pixels.
        width: width of the tower's hidden state.
        feed_forward_length: width of its MLP.
        head_count: attention heads.
        local_layers: layers of the first, ungated transformer.
        global_layers: layers of the second, gated transformer.
        intermediate_layers: local layers whose inputs become features, ascending.
        max_tiles: maximum number of tiles of an image.
        aspect_ratios: (tiles high, tiles wide) of every canvas. The aspect ratio id of a canvas is 1 + its index.
        layer_norm_epsilon: epsilon of every LayerNorm in the tower.
        image_mean: mean of the three channels, after division by 255.
        image_std: standard deviation of the three channels, after division by 255.
        padding_collapses: whether the embeddings of unused tiles are zero, so that one tile can stand for all of them.
    """

    tile_size: int
    patch_size: int
    width: int
    feed_forward_length: int
    head_count: int
    local_layers: int
    global_layers: int
    intermediate_layers: tuple[int, ...]
    max_tiles: int
    aspect_ratios: tuple[tuple[int, int], ...]
    layer_norm_epsilon: float
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    padding_collapses: bool

    @property
    def tile_tokens(self) -> int:
        """Tokens per tile: its patches and the class token."""
        return (self.tile_size // self.patch_size) ** 2 + 1

    @property
    def tile_padding(self) -> int:
        """Zero tokens that pad every tile to a multiple of eight."""
        return -self.tile_tokens % TILE_TOKENS_MULTIPLE

    @property
    def layers(self) -> int:
        """Layers of both transformers."""
        return self.local_layers + self.global_layers

    @property
    def feature_width(self) -> int:
        """Width of a token's features: the final state and the intermediate states."""
        return self.width * (1 + len(self.intermediate_layers))

    def aspect_ratio_id(self, aspect_ratio: tuple[int, int]) -> int:
        """The id of a canvas (tiles high, tiles wide); 0 is reserved for no image."""
        return 1 + self.aspect_ratios.index(aspect_ratio)


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Shape of the cross-attention layers and of the decoder.

    Attributes:
        layers: index of each cross-attention layer among all text layers of the checkpoint, ascending.
        self_attention_layers: number of layers in the text GGUF.
        embedding_length: width of the decoder's hidden state, and of the projected vision tokens.
        feed_forward_length: width of the MLP.
        head_count: attention heads.
        head_count_kv: attention heads of keys and values.
        rms_epsilon: epsilon of every RMS norm.
        vocab_rows: rows of the output head that are tokens. The rows after them are padding.
        image_token_id: the id of ``<|image|>``.
    """

    layers: tuple[int, ...]
    self_attention_layers: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    rms_epsilon: float
    vocab_rows: int
    image_token_id: int

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.embedding_length // self.head_count


@dataclass(frozen=True)
class TextIdentity:
    """Properties of a text file that must equal those of its mmproj file.

    Attributes:
        text_hash: hash of the checkpoint's text tensors.
        layers: self-attention layers.
        width: width of the hidden state.
        vocab_rows: rows of the output head that are tokens.
        image_token_id: the id of ``<|image|>``.
    """

    text_hash: str
    layers: int
    width: int
    vocab_rows: int
    image_token_id: int


@dataclass(frozen=True)
class MmprojConfig:
    """The configuration in an mmproj file: the model's shape, and whether it is a demonstration model."""

    vision: VisionConfig
    cross_attention: CrossAttentionConfig
    text_hash: str
    demonstration: bool = False

    def differences(self, text: TextIdentity) -> tuple[str, ...]:
        """Properties in which the two files differ; empty for a pair that belongs together."""
        cross = self.cross_attention
        same = {
            "content hash": (text.text_hash, self.text_hash),
            "layers": (text.layers, cross.self_attention_layers),
            "width": (text.width, cross.embedding_length),
            "vocabulary": (text.vocab_rows, cross.vocab_rows),
            "image token": (text.image_token_id, cross.image_token_id),
        }
        return tuple(name for name, (ours, theirs) in same.items() if ours != theirs)


def all_aspect_ratios(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Every canvas of at most ``max_tiles`` tiles, in the order of aspect ratio ids."""
    sides = range(1, max_tiles + 1)
    return tuple((high, wide) for high in sides for wide in sides if high * wide <= max_tiles)


def _vision_layer(prefix: str, vision: VisionConfig, *, gated: bool) -> dict[str, tuple[int, ...]]:
    width, inner = vision.width, vision.feed_forward_length
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("ln1", "ln2"):
        shapes[f"{prefix}.{norm}.weight"] = (width,)
        shapes[f"{prefix}.{norm}.bias"] = (width,)
    for matrix in ("attn_q", "attn_k", "attn_v", "attn_out"):
        shapes[f"{prefix}.{matrix}.weight"] = (width, width)
    shapes[f"{prefix}.ffn_up.weight"] = (inner, width)
    shapes[f"{prefix}.ffn_up.bias"] = (inner,)
    shapes[f"{prefix}.ffn_down.weight"] = (width, inner)
    shapes[f"{prefix}.ffn_down.bias"] = (width,)
    if gated:
        shapes[f"{prefix}.gate_attn"] = (1,)
        shapes[f"{prefix}.gate_ffn"] = (1,)
    return shapes


def _cross_layer(prefix: str, cross: CrossAttentionConfig) -> dict[str, tuple[int, ...]]:
    width, inner = cross.embedding_length, cross.feed_forward_length
    kv_width = cross.head_count_kv * cross.head_width
    return {
        f"{prefix}.attn_norm.weight": (width,),
        f"{prefix}.attn_q.weight": (width, width),
        f"{prefix}.attn_k.weight": (kv_width, width),
        f"{prefix}.attn_v.weight": (kv_width, width),
        f"{prefix}.attn_output.weight": (width, width),
        f"{prefix}.attn_q_norm.weight": (cross.head_width,),
        f"{prefix}.attn_k_norm.weight": (cross.head_width,),
        f"{prefix}.gate_attn": (1,),
        f"{prefix}.ffn_norm.weight": (width,),
        f"{prefix}.ffn_gate.weight": (inner, width),
        f"{prefix}.ffn_up.weight": (inner, width),
        f"{prefix}.ffn_down.weight": (width, inner),
        f"{prefix}.gate_ffn": (1,),
    }


def tensor_shapes(vision: VisionConfig, cross: CrossAttentionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape (numpy order, rows first) of every tensor of the mmproj file, in file order.

    ``v.patch_embd.weight`` is the convolution kernel with (channel, y, x) flattened. The columns of ``mm.0.weight`` are
    in blocks (final state, then each intermediate state), not interleaved as in the checkpoint.
    """
    width, tiles, ratios = vision.width, vision.max_tiles, len(vision.aspect_ratios) + 1
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3 * vision.patch_size**2),
        "v.class_embd": (width,),
        "v.position_embd.weight": (vision.tile_tokens, width),
        "v.position_embd.gate": (1,),
        "v.tile_position_embd.weight": (ratios, tiles, vision.tile_tokens, width),
        "v.pre_tile_embd.weight": (ratios, tiles, width),
        "v.pre_tile_embd.gate": (1,),
        "v.post_tile_embd.weight": (ratios, tiles, width),
        "v.post_tile_embd.gate": (1,),
        "v.pre_ln.weight": (width,),
        "v.pre_ln.bias": (width,),
        "v.post_ln.weight": (width,),
        "v.post_ln.bias": (width,),
    }
    for i in range(vision.local_layers):
        shapes |= _vision_layer(f"v.blk.{i}", vision, gated=False)
    for i in range(vision.global_layers):
        shapes |= _vision_layer(f"v.global.blk.{i}", vision, gated=True)
    shapes["mm.0.weight"] = (cross.embedding_length, vision.feature_width)
    shapes["mm.0.bias"] = (cross.embedding_length,)
    for i in range(len(cross.layers)):
        shapes |= _cross_layer(f"cross.blk.{i}", cross)
    return shapes
