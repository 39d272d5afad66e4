"""Convert ``tokenizer.json`` to GGUF's tokenizer keys, and check that llama.cpp can reproduce the tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from visionward.convert.model_config import ModelConfig
from visionward.errors import TokenizerError
from visionward.formats.checkpoint_json import Settings

IMAGE_TOKEN = "<|image|>"  # noqa: S105 - a token's text, not a secret
END_OF_TURN_TOKEN = "<|eot_id|>"  # noqa: S105 - a token's text, not a secret
END_OF_MESSAGE_TOKEN = "<|eom_id|>"  # noqa: S105 - a token's text, not a secret

LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class GgufTokenizer:
    """A tokenizer as GGUF stores it.

    Attributes:
        tokens: the text of every row of the embedding.
        token_types: llama.cpp's type of every row.
        merges: pairs separated by a space, in order of priority.
        bos_id: id of the token that begins a text.
        eos_id: id of the token that ends a text.
        eot_id: id of the token that ends a turn; None if there is none.
        eom_id: id of the token that ends a message; None if there is none.
        padding_id: id of the padding token; None if there is none.
    """

    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    bos_id: int
    eos_id: int
    eot_id: int | None
    eom_id: int | None
    padding_id: int | None


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _parts(component: Any, list_key: str) -> list[dict[str, Any]]:
    """The members of a Sequence component, or the component itself."""
    if not isinstance(component, dict):
        return []
    if component.get("type") == "Sequence":
        return [part for member in component.get(list_key, []) for part in _parts(member, list_key)]
    return [component]


def _check_pre_tokenizer(where: str, pre_tokenizer: Any) -> None:
    parts = _parts(pre_tokenizer, "pretokenizers")
    split = parts[0] if parts else {}
    byte_level = parts[-1] if parts else {}
    matches = (
        [part.get("type") for part in parts] == ["Split", "ByteLevel"]
        and split.get("pattern") == {"Regex": LLAMA_3_PATTERN}
        and split.get("behavior") == "Isolated"
        and not split.get("invert", False)
        and not byte_level.get("add_prefix_space", True)
        and not byte_level.get("use_regex", True)
    )
    if not matches:
        raise TokenizerError(
            f"{where}: the pre-tokenizer is not Llama 3's (Split by its regular expression, then ByteLevel without "
            f"prefix space and regular expression); found {_shown(pre_tokenizer)}"
        )


def _check_model(where: str, model: Settings) -> None:
    required: dict[str, tuple[object, ...]] = {
        "type": ("BPE",),
        "ignore_merges": (True,),
        "dropout": (None,),
        "unk_token": (None,),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "byte_fallback": (None, False),
    }
    for key, allowed in required.items():
        if model.get(key) not in allowed:
            raise TokenizerError(
                f"{where}: the model's {key} is {_shown(model.get(key))}, expected {_shown(allowed[0])}"
            )


def _merges(where: str, merges: Any) -> tuple[str, ...]:
    """Merges as strings: older files have "a b", newer ones ["a", "b"]."""
    if not isinstance(merges, list):
        raise TokenizerError(f"{where}: the model has no list of merges")
    joined = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or any(" " in str(part) or not part for part in pair):
            raise TokenizerError(f"{where}: the merge {_shown(merge)} is not a pair")
        joined.append(f"{pair[0]} {pair[1]}")
    return tuple(joined)


def _check_added(where: str, added: Any) -> None:
    content = added.get("content")
    if not isinstance(content, str) or not content or not isinstance(added.get("id"), int):
        raise TokenizerError(f"{where}: the added token {_shown(added)} has no text or no id")
    for key in ("lstrip", "rstrip", "single_word"):
        # llama.cpp matches added tokens literally.
        if added.get(key):
            raise TokenizerError(f"{where}: the added token {content!r} has {key}, which llama.cpp does not reproduce")


def _rows(
    where: str, vocabulary: dict[str, int], added_tokens: Sequence[Any], config: ModelConfig
) -> tuple[list[str], list[int]]:
    """Text and type of every row of the embedding."""
    row_count, image_id = config.embedding_rows, config.cross_attention.image_token_id
    tokens = [f"[PAD{i}]" for i in range(row_count)]
    types = [int(TokenType.UNUSED)] * row_count

    def place(text: str, row: int, token_type: TokenType) -> None:
        if not 0 <= row < row_count:
            raise TokenizerError(f"{where}: {text!r} has id {row}, but the embedding has only {row_count} rows")
        if types[row] != TokenType.UNUSED and tokens[row] != text:
            raise TokenizerError(f"{where}: {text!r} and {tokens[row]!r} have the same id {row}")
        tokens[row], types[row] = text, int(token_type)

    for text, row in vocabulary.items():
        place(text, row, TokenType.NORMAL)
    for added in added_tokens:
        _check_added(where, added)
        place(added["content"], added["id"], TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED)
    if types[image_id] == TokenType.UNUSED:
        place(IMAGE_TOKEN, image_id, TokenType.CONTROL)
    if types[image_id] != TokenType.CONTROL:
        raise TokenizerError(
            f"{where}: image_token_index is {image_id}, but the token {tokens[image_id]!r} with this id is not special"
        )
    if tokens.count(IMAGE_TOKEN) > 1:
        raise TokenizerError(f"{where}: {IMAGE_TOKEN} has several ids, expected only {image_id}")
    return tokens, types


def _named_token(settings: Settings, key: str) -> str | None:
    """A special token of tokenizer_config.json, where it is a text or an object with its content."""
    value = settings.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_tokenizer(checkpoint: Path, config: ModelConfig) -> GgufTokenizer:
    """Read ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        TokenizerError: if llama.cpp would tokenize differently, or the tokens do not fit the embedding.
        CheckpointError: if a file is missing or malformed.
    """
    settings = Settings.load(checkpoint / "tokenizer.json")
    where = settings.where
    if settings.get("normalizer") is not None:
        raise TokenizerError(f"{where}: the normalizer is {_shown(settings.get('normalizer'))}, expected none")
    model = settings.section("model")
    _check_model(where, model)
    _check_pre_tokenizer(where, settings.get("pre_tokenizer"))
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(isinstance(row, int) for row in vocabulary.values()):
        raise TokenizerError(f"{where}: the model has no vocabulary")
    tokens, types = _rows(where, vocabulary, settings.get("added_tokens") or [], config)

    control = {token: row for row, token in enumerate(tokens) if types[row] == TokenType.CONTROL}
    names = Settings.load_optional(checkpoint / "tokenizer_config.json")

    def token_id(key: str, fallback: int | None) -> int | None:
        text = _named_token(names, f"{key}_token")
        if text is None:
            return fallback
        if text not in control:
            raise TokenizerError(f"{names.where}: {key}_token {text!r} is not a special token of tokenizer.json")
        return control[text]

    ids = config.text_settings
    eos_ids = ids.get("eos_token_id")
    fallback_eos = eos_ids[0] if isinstance(eos_ids, list) and eos_ids else eos_ids
    bos_id, eos_id = token_id("bos", ids.get("bos_token_id")), token_id("eos", fallback_eos)
    for key, row in (("bos", bos_id), ("eos", eos_id)):
        if not isinstance(row, int) or not 0 <= row < len(tokens):
            raise TokenizerError(f"{names.where}: there is no valid {key}_token, nor one in config.json")
    padding_id = token_id("pad", ids.get("pad_token_id"))
    return GgufTokenizer(
        tokens=tuple(tokens),
        token_types=tuple(types),
        merges=_merges(where, model.get("merges")),
        bos_id=int(bos_id or 0),
        eos_id=int(eos_id or 0),
        eot_id=control.get(END_OF_TURN_TOKEN),
        eom_id=control.get(END_OF_MESSAGE_TOKEN),
        padding_id=padding_id if isinstance(padding_id, int) and 0 <= padding_id < len(tokens) else None,
    )
