"""Read the files beside the weights of a checkpoint: preprocessing settings, chat template, end tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionward.convert.model_config import ModelConfig
from visionward.convert.tokenizer import GgufTokenizer
from visionward.errors import CheckpointError
from visionward.formats.checkpoint_json import MAX_BYTES, Settings
from visionward.formats.whole_text import read_text

# Settings of preprocessor_config.json with only one supported value, which is the default of Transformers'
# MllamaImageProcessor. resample 2 is Pillow's bilinear filter.
_FIXED_PREPROCESSING: dict[str, object] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": True,
    "resample": 2,
}


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of the three channels, for normalizing pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _channels(settings: Settings, key: str, default: tuple[float, ...]) -> tuple[float, float, float]:
    value: Any = settings.get(key) if key in settings else list(default)
    values = [value] * 3 if isinstance(value, int | float) else value
    if (
        not isinstance(values, list)
        or len(values) != 3
        or any(isinstance(item, bool) or not isinstance(item, int | float) for item in values)
    ):
        raise settings.wrong(key, "three numbers")
    red, green, blue = (float(item) for item in values)
    return red, green, blue


def read_preprocessing(checkpoint: Path, config: ModelConfig) -> ChannelStatistics:
    """Read the channel statistics from ``preprocessor_config.json``, and check the other settings.

    Raises:
        CheckpointError: if a setting has a value that the runtime does not support.
    """
    settings = Settings.load(checkpoint / "preprocessor_config.json")
    processor = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "MllamaImageProcessor"
    if processor not in ("MllamaImageProcessor", "MllamaImageProcessorFast"):
        raise settings.wrong("image_processor_type", '"MllamaImageProcessor"')
    for key, expected in _FIXED_PREPROCESSING.items():
        settings.require(key, expected, default=expected)
    if abs(settings.number("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise settings.wrong("rescale_factor", f"{1 / 255}")
    side = config.vision.tile_size
    size = settings.section("size")
    if size.get("height") != side or size.get("width") != side:
        raise settings.wrong("size", f"the tile size of the tower, {side} in height and width")
    settings.require("max_image_tiles", config.vision.max_tiles, default=4)
    std = _channels(settings, "image_std", (0.5, 0.5, 0.5))
    if min(std) <= 0:
        raise settings.wrong("image_std", "three positive numbers")
    return ChannelStatistics(_channels(settings, "image_mean", (0.5, 0.5, 0.5)), std)


def read_chat_template(checkpoint: Path) -> str | None:
    """The chat template that Transformers' processor would render; None if there is none.

    Files are searched in the order of ProcessorMixin.get_processor_dict (4.53.3), then the tokenizer's.
    """
    legacy, raw = checkpoint / "chat_template.json", checkpoint / "chat_template.jinja"
    if legacy.exists():
        return _one_template(Settings.load(legacy))
    if raw.exists():
        try:
            return read_text(raw, MAX_BYTES)
        except OSError as error:
            raise CheckpointError(f"{raw}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{raw}: not a valid text file: {error}") from error
    for name in ("processor_config.json", "tokenizer_config.json"):
        template = _one_template(Settings.load_optional(checkpoint / name))
        if template is not None:
            return template
    return None


def _one_template(settings: Settings) -> str | None:
    """The template in a JSON file: a text, or the template ``default`` in a list of named templates."""
    value = settings.get("chat_template")
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise settings.wrong("chat_template", "text")
    return value or None


def read_end_token_ids(checkpoint: Path, config: ModelConfig, tokenizer: GgufTokenizer) -> tuple[int, ...]:
    """The ids of the tokens that end an answer.

    They come from ``generation_config.json``, else from ``config.json``, else from the tokenizer. The end-of-turn token
    is always among them.

    Raises:
        CheckpointError: if they are not ids of the vocabulary.
    """
    ids: list[int] = []
    generation = Settings.load_optional(checkpoint / "generation_config.json")
    for settings in (generation, config.text_settings):
        if "eos_token_id" in settings:
            value = settings.get("eos_token_id")
            ids = value if isinstance(value, list) else [value]
            if any(
                isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < config.cross_attention.vocab_rows
                for i in ids
            ):
                raise settings.wrong("eos_token_id", f"ids below {config.cross_attention.vocab_rows}")
            break
    ends = [*ids] or [tokenizer.eos_id]
    if tokenizer.eot_id is not None:
        ends.append(tokenizer.eot_id)
    return tuple(sorted(set(ends)))
