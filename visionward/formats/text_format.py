"""The format of the text GGUF: keys and tensors, checked before llama.cpp reads the file (docs/mmproj-format.md).

llama.cpp aborts the process on some invalid numbers, and uses a default if the name of a key is damaged. So the keys
that describe the decoder must be exactly those that `visionward convert` writes, each within its range.
"""

from dataclasses import dataclass

from gguf import GGMLQuantizationType

from visionward.errors import ModelFileError
from visionward.formats import mmproj_format as form
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.gguf_values import each, number, only, strings, text, truth, whole
from visionward.formats.key_table import Converter, read_keys
from visionward.formats.mmproj_format import (
    EPSILON,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_TOKENS,
    MAX_WIDTH,
    TextIdentity,
)
from visionward.formats.tensor_checksums import has_checksums
from visionward.formats.tensor_table import MATRIX, VECTOR, ExpectedTensor, check_tensors

TEXT_ARCHITECTURE = "llama"
# llama.cpp's names for its byte-level BPE tokenizer and for Llama 3's regular expression.
TOKENIZER_MODEL = "gpt2"
PRE_TOKENIZER = "llama-bpe"

KEY_TOKENS = "tokenizer.ggml.tokens"
KEY_TOKEN_TYPES = "tokenizer.ggml.token_type"  # noqa: S105 - a key's name, not a secret
KEY_CHAT_TEMPLATE = "tokenizer.chat_template"

# The CPU kernels support every type that llama.cpp's quantizer writes.
_MATRIX = MATRIX | {
    GGMLQuantizationType[name]
    for name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0")
}
_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA = f"{TEXT_ARCHITECTURE}."


@dataclass(frozen=True)
class TextConfig:
    """The configuration in a text file: the decoder and its vocabulary.

    Attributes:
        identity: properties that must equal those of the mmproj file.
        feed_forward_length: width of the MLP.
        head_count: attention heads.
        head_count_kv: attention heads of keys and values.
        context_length: tokens of a context in training.
        tokens: the vocabulary, padding included.
        token_types: llama.cpp's token types (gguf.TokenType), one per token.
        end_token_ids: tokens that end an answer.
        name: the model's name; None if the file has none.
        chat_template: the Jinja text; None if there is none.
        demonstration: whether this is a demonstration model.
    """

    identity: TextIdentity
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    context_length: int
    tokens: tuple[bytes, ...]
    token_types: tuple[int, ...]
    end_token_ids: tuple[int, ...]
    name: str | None
    chat_template: str | None
    demonstration: bool

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.identity.width // self.head_count


def read_text_config(file: GgufHeader) -> TextConfig:
    """Read the configuration of a text file, and check its tensors.

    Raises:
        ModelFileError: if a key or tensor is missing, unknown or not valid.
    """
    has_checksums(file)
    tokens = file.strings(KEY_TOKENS)
    if len(set(tokens)) != len(tokens):
        # llama.cpp aborts the process on such a vocabulary.
        raise ModelFileError(f"{file.path} is damaged: its vocabulary has a token twice. Copy it again.")
    values = read_keys(file, _required_keys(len(tokens)), _optional_keys(len(tokens)))
    config = TextConfig(
        identity=TextIdentity(
            text_hash=values[form.KEY_TEXT_HASH],
            layers=values[_LLAMA + "block_count"],
            width=values[_LLAMA + "embedding_length"],
            vocab_rows=values[form.KEY_VOCAB_ROWS],
            image_token_id=values[form.KEY_IMAGE_TOKEN_ID],
        ),
        feed_forward_length=values[_LLAMA + "feed_forward_length"],
        head_count=values[_LLAMA + "attention.head_count"],
        head_count_kv=values[_LLAMA + "attention.head_count_kv"],
        context_length=values[_LLAMA + "context_length"],
        tokens=tuple(tokens),
        token_types=values[KEY_TOKEN_TYPES],
        end_token_ids=values[form.KEY_END_TOKEN_IDS],
        name=file.get("general.name", text) if file.has("general.name") else None,
        chat_template=values[KEY_CHAT_TEMPLATE],
        demonstration=bool(values[form.KEY_DEMONSTRATION]),
    )
    _check(file, config, values[_LLAMA + "rope.dimension_count"])
    check_tensors(file, text_tensors(config))
    return config


def _required_keys(rows: int) -> dict[str, Converter]:
    token_id = whole(0, rows - 1)
    return {
        form.KEY_FORMAT_VERSION: whole(0, form.FORMAT_VERSION),
        form.KEY_TEXT_HASH: text,
        form.KEY_VOCAB_ROWS: whole(1, rows),
        form.KEY_IMAGE_TOKEN_ID: token_id,
        form.KEY_END_TOKEN_IDS: each(token_id, rows),
        _LLAMA + "block_count": whole(1, MAX_LAYERS),
        _LLAMA + "context_length": whole(1, MAX_TOKENS),
        _LLAMA + "embedding_length": whole(1, MAX_WIDTH),
        _LLAMA + "feed_forward_length": whole(1, MAX_WIDTH),
        _LLAMA + "attention.head_count": whole(1, MAX_HEADS),
        _LLAMA + "attention.head_count_kv": whole(1, MAX_HEADS),
        _LLAMA + "attention.layer_norm_rms_epsilon": EPSILON,
        _LLAMA + "rope.freq_base": number(1, 1e9),
        _LLAMA + "rope.dimension_count": whole(2, MAX_WIDTH),
        "tokenizer.ggml.model": only(TOKENIZER_MODEL),
        "tokenizer.ggml.pre": only(PRE_TOKENIZER),
        KEY_TOKENS: strings,
        KEY_TOKEN_TYPES: each(whole(1, 6), rows),
        "tokenizer.ggml.merges": strings,
        "tokenizer.ggml.bos_token_id": token_id,
        "tokenizer.ggml.eos_token_id": token_id,
        "tokenizer.ggml.add_bos_token": only(True),
    }


def _optional_keys(rows: int) -> dict[str, Converter]:
    token_id = whole(0, rows - 1)
    return {
        **form.CHECKSUM_KEYS,
        form.KEY_LICENSE_NOTICE: text,
        form.KEY_DEMONSTRATION: truth,
        _LLAMA + "vocab_size": only(rows),
        "tokenizer.ggml.eot_token_id": token_id,
        "tokenizer.ggml.eom_token_id": token_id,
        "tokenizer.ggml.padding_token_id": token_id,
        KEY_CHAT_TEMPLATE: text,
    }


def _check(file: GgufHeader, config: TextConfig, rope_width: int) -> None:
    heads, width = config.head_count, config.identity.width
    sound = {
        "heads": width % heads == 0 and heads % config.head_count_kv == 0,
        "rotary embedding": rope_width == config.head_width and rope_width % 2 == 0,
        "token types": len(config.token_types) == len(config.tokens),
    }
    wrong = [name for name, good in sound.items() if not good]
    if wrong:
        raise ModelFileError(f"{file.path} has invalid metadata ({', '.join(wrong)}): convert the model again.")


def text_tensors(config: TextConfig) -> dict[str, ExpectedTensor]:
    """Every tensor that a text file has, by name."""
    width, inner, rows = config.identity.width, config.feed_forward_length, len(config.tokens)
    kv_width = config.head_count_kv * config.head_width

    def matrix(*shape: int, required: bool = True) -> ExpectedTensor:
        return ExpectedTensor(shape, _MATRIX, required=required)

    norm = ExpectedTensor((width,), VECTOR, may_be_zero=False)
    table = {
        "token_embd.weight": matrix(rows, width),
        "output_norm.weight": norm,
        # Missing if the head is tied to the embedding.
        "output.weight": matrix(rows, width, required=False),
        _ROPE_FACTORS: ExpectedTensor((config.head_width // 2,), VECTOR, required=False, may_be_zero=False),
    }
    for i in range(config.identity.layers):
        layer = f"blk.{i}."
        table |= {
            f"{layer}attn_norm.weight": norm,
            f"{layer}attn_q.weight": matrix(width, width),
            f"{layer}attn_k.weight": matrix(kv_width, width),
            f"{layer}attn_v.weight": matrix(kv_width, width),
            f"{layer}attn_output.weight": matrix(width, width),
            f"{layer}ffn_norm.weight": norm,
            f"{layer}ffn_gate.weight": matrix(inner, width),
            f"{layer}ffn_up.weight": matrix(inner, width),
            f"{layer}ffn_down.weight": matrix(width, inner),
        }
    return table
