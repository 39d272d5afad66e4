"""Read ``config.json``, and check that the model can be converted.

Missing settings have the defaults of Transformers' Mllama configuration classes.
"""

from dataclasses import dataclass
from pathlib import Path

from visionward.errors import CheckpointError
from visionward.formats.checkpoint_json import Settings
from visionward.formats.mmproj_format import CrossAttentionConfig, VisionConfig, all_aspect_ratios
from visionward.formats.safetensors_reader import download_hint

# Rows of MllamaTextModel's embedding after the vocabulary. <|image|> is the first of them.
EXTRA_EMBEDDING_ROWS = 8

# MllamaVisionModel creates its first and last LayerNorm with torch's default epsilon, whatever norm_eps is. Only with
# this value are all norms of the tower equal.
LAYER_NORM_EPSILON = 1e-5

_CLASS = "MllamaForConditionalGeneration"
_DEFAULT_CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
_DEFAULT_INTERMEDIATE_LAYERS = (3, 7, 15, 23, 30)


@dataclass(frozen=True)
class RopeScaling:
    """The parameters of Llama 3's rope scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True)
class DecoderConfig:
    """The decoder without its cross-attention layers.

    Attributes:
        layer_count: all text layers of the checkpoint, cross-attention layers included.
        context_length: maximum length of a sequence.
        rope_theta: base of the rotary frequencies.
        rope_scaling: Llama 3's scaling; None for plain RoPE.
        tied: whether the output head is tied to the embedding.
    """

    layer_count: int
    context_length: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied: bool


@dataclass(frozen=True)
class ModelConfig:
    """The ``config.json`` of a checkpoint that can be converted.

    Attributes:
        vision: the vision tower. Mean, standard deviation and padding_collapses come from other files.
        cross_attention: the cross-attention layers, and the sizes of the decoder.
        text: the rest of the decoder.
        settings: all settings of the file.
        text_settings: its ``text_config``.
    """

    vision: VisionConfig
    cross_attention: CrossAttentionConfig
    text: DecoderConfig
    settings: Settings
    text_settings: Settings

    @property
    def embedding_rows(self) -> int:
        """Rows of the token embedding."""
        return self.cross_attention.vocab_rows + EXTRA_EMBEDDING_ROWS

    @property
    def self_attention_layers(self) -> tuple[int, ...]:
        """The index in the checkpoint of each layer of the text file, in order."""
        return tuple(i for i in range(self.text.layer_count) if i not in self.cross_attention.layers)


def _divides(settings: Settings, part: str, whole: str, part_value: int, whole_value: int) -> None:
    if whole_value % part_value:
        raise CheckpointError(f"{settings.where}: {part} ({part_value}) does not divide {whole} ({whole_value})")


def _rope_scaling(text: Settings) -> RopeScaling | None:
    if "rope_scaling" not in text:
        return None
    scaling = text.section("rope_scaling")
    rope_type = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope_type == "default":
        return None
    if rope_type != "llama3":
        raise CheckpointError(f"{scaling.where}: rope_type is {rope_type!r}, expected 'default' or 'llama3'")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if not low < high:
        raise CheckpointError(f"{scaling.where}: low_freq_factor ({low}) must be below high_freq_factor ({high})")
    return RopeScaling(scaling.number("factor"), low, high, scaling.integer("original_max_position_embeddings"))


def _cross_layers(text: Settings, layer_count: int) -> tuple[int, ...]:
    layers = text.integers("cross_attention_layers", _DEFAULT_CROSS_LAYERS)
    if not layers or list(layers) != sorted(set(layers)) or layers[-1] >= layer_count:
        raise text.wrong("cross_attention_layers", f"an ascending list of layers below {layer_count}, at least one")
    # A cross-attention layer follows the output of a self-attention layer. The output of the last layer has only the
    # rows whose logits were requested.
    if layers[0] == 0:
        raise CheckpointError(f"{text.where}: cross-attention layer 0 has no self-attention layer before it")
    if layers[-1] == layer_count - 1:
        raise CheckpointError(
            f"{text.where}: cross-attention layer {layers[-1]} is the last layer; a self-attention layer must follow it"
        )
    return layers


def _decoder(settings: Settings, text: Settings) -> tuple[DecoderConfig, CrossAttentionConfig]:
    text.require("hidden_act", "silu", default="silu")
    width, heads = text.integer("hidden_size", 4096), text.integer("num_attention_heads", 32)
    heads_kv = text.integer("num_key_value_heads", heads)
    layer_count = text.integer("num_hidden_layers", 40)
    vocab_rows = text.integer("vocab_size", 128256)
    _divides(text, "num_attention_heads", "hidden_size", heads, width)
    _divides(text, "num_key_value_heads", "num_attention_heads", heads_kv, heads)
    _divides(text, "2 (RoPE rotates pairs)", "the width of a head", 2, width // heads)
    image_token_id = settings.integer("image_token_index", 128256, minimum=0)
    if image_token_id >= vocab_rows + EXTRA_EMBEDDING_ROWS:
        raise CheckpointError(
            f"{settings.where}: image_token_index is {image_token_id}, but the embedding has only "
            f"{vocab_rows + EXTRA_EMBEDDING_ROWS} rows"
        )
    cross_layers = _cross_layers(text, layer_count)
    cross = CrossAttentionConfig(
        layers=cross_layers,
        self_attention_layers=layer_count - len(cross_layers),
        embedding_length=width,
        feed_forward_length=text.integer("intermediate_size", 14336),
        head_count=heads,
        head_count_kv=heads_kv,
        rms_epsilon=text.number("rms_norm_eps", 1e-5),
        vocab_rows=vocab_rows,
        image_token_id=image_token_id,
    )
    decoder = DecoderConfig(
        layer_count=layer_count,
        context_length=text.integer("max_position_embeddings", 131072),
        rope_theta=text.number("rope_theta", 500000.0),
        rope_scaling=_rope_scaling(text),
        tied=bool(text.get("tie_word_embeddings")),
    )
    return decoder, cross


def _vision(vision: Settings) -> VisionConfig:
    vision.require("hidden_act", "gelu", default="gelu")
    vision.require("num_channels", 3, default=3)
    width = vision.integer("hidden_size", 1280)
    heads_key = "attention_heads" if "attention_heads" in vision else "num_attention_heads"
    heads = vision.integer(heads_key, 16)
    tile_size, patch_size = vision.integer("image_size", 448), vision.integer("patch_size", 14)
    _divides(vision, heads_key, "hidden_size", heads, width)
    _divides(vision, "patch_size", "image_size", patch_size, tile_size)
    vision.require("norm_eps", LAYER_NORM_EPSILON, default=LAYER_NORM_EPSILON)

    local_layers = vision.integer("num_hidden_layers", 32)
    intermediate = vision.integers("intermediate_layers_indices", _DEFAULT_INTERMEDIATE_LAYERS)
    if not intermediate or list(intermediate) != sorted(set(intermediate)) or intermediate[-1] >= local_layers:
        raise vision.wrong(
            "intermediate_layers_indices", f"an ascending list of layers below {local_layers}, at least one"
        )
    vision.require("vision_output_dim", width * (1 + len(intermediate)), default=7680)

    max_tiles = vision.integer("max_num_tiles", 4)
    ratios = all_aspect_ratios(max_tiles)
    # Aspect ratio ids count the canvases that preprocessing can choose, so only this list is possible.
    vision.require("supported_aspect_ratios", [list(ratio) for ratio in ratios], [list(ratio) for ratio in ratios])
    return VisionConfig(
        tile_size=tile_size,
        patch_size=patch_size,
        width=width,
        feed_forward_length=vision.integer("intermediate_size", 5120),
        head_count=heads,
        local_layers=local_layers,
        global_layers=vision.integer("num_global_layers", 8),
        intermediate_layers=intermediate,
        max_tiles=max_tiles,
        aspect_ratios=ratios,
        layer_norm_epsilon=LAYER_NORM_EPSILON,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        padding_collapses=False,
    )


def read_model_config(checkpoint: Path) -> ModelConfig:
    """Read and check ``config.json``.

    Raises:
        CheckpointError: if the folder has no mllama checkpoint, or one that cannot be converted.
    """
    if not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such folder; {download_hint(checkpoint)}")
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: not a folder; name the folder of a Hugging Face checkpoint")
    if not (checkpoint / "config.json").exists():
        raise CheckpointError(f"{checkpoint}: config.json is missing; {download_hint(checkpoint)}")
    settings = Settings.load(checkpoint / "config.json")
    architectures = settings.get("architectures") or [_CLASS]
    if settings.get("model_type") != "mllama" or _CLASS not in architectures:
        raise CheckpointError(
            f"{settings.where}: the model class is {', '.join(map(str, architectures))} of type "
            f"{settings.get('model_type')!r}; only {_CLASS} of type 'mllama' can be converted"
        )
    if "quantization_config" in settings:
        raise CheckpointError(f"{settings.where}: the checkpoint is quantized; convert the original checkpoint")
    text = settings.section("text_config")
    decoder, cross = _decoder(settings, text)
    return ModelConfig(_vision(settings.section("vision_config")), cross, decoder, settings, text)
