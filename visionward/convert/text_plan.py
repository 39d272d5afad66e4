"""Plan the text file: the decoder without its cross-attention layers, a plain Llama model for stock llama.cpp."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, Keys

from visionward.convert.encoding import Array, PlannedTensor, Reorder, rope_reorder
from visionward.convert.model_config import ModelConfig, RopeScaling
from visionward.convert.provenance import Provenance
from visionward.convert.tensor_names import HEAD, canonical_name, text_names
from visionward.convert.tokenizer import GgufTokenizer
from visionward.formats import mmproj_format
from visionward.formats.gguf_file import Metadata, MetadataValue
from visionward.formats.safetensors_reader import CheckpointTensor
from visionward.formats.text_format import PRE_TOKENIZER, TEXT_ARCHITECTURE, TOKENIZER_MODEL
from visionward.quant.tensor_types import Recipe, element_type

_ROPE_FACTORS = "rope_freqs.weight"


def rope_factors(head_width: int, rope_theta: float, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """The factors by which llama.cpp divides the rotary frequencies, for Llama 3's scaling.

    The formula is that of ``_compute_llama3_parameters`` in Transformers' modeling_rope_utils.py.
    """
    frequencies = rope_theta ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    # High frequencies stay, low frequencies are divided by the factor, and those between are interpolated.
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(smooth, 0.0, 1.0)
    return (1 / ((1 - blend) / scaling.factor + blend)).astype(np.float32)


class TextHash:
    """The text hash in both files of a pair, computed while the tensors are read.

    It covers name (on the hub), dtype, shape and bytes of every tensor of the checkpoint that the text file is made
    from, sorted by name. It does not depend on the type of the text file.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, tuple[CheckpointTensor, hashlib._Hash]] = {}

    def observe(self, tensor: PlannedTensor, raw: Array) -> None:
        """Add a piece of a tensor as the checkpoint has it. The pieces of a tensor must come in order."""
        if isinstance(tensor.source, CheckpointTensor):
            _, digest = self._tensors.setdefault(tensor.source.name, (tensor.source, hashlib.sha256()))
            digest.update(np.ascontiguousarray(raw).data.cast("B"))

    def hexdigest(self) -> str:
        """The hash of everything that was added."""
        lines = sorted(
            f"{canonical_name(name)}\t{stored.dtype}\t{','.join(map(str, stored.shape))}\t{digest.hexdigest()}\n"
            for name, (stored, digest) in self._tensors.items()
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _shape(config: ModelConfig, source_name: str, stored: CheckpointTensor) -> tuple[int, ...]:
    # llama.cpp requires as many rows in the head as in the embedding. The runtime ignores the logits of padding rows.
    return (config.embedding_rows, stored.shape[1]) if source_name == HEAD else stored.shape


def _reorder(config: ModelConfig, source_name: str) -> Reorder | None:
    rotary = source_name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight"))
    return rope_reorder(config.cross_attention.head_width) if rotary else None


def plan_text(config: ModelConfig, stored: Mapping[str, CheckpointTensor], recipe: Recipe) -> list[PlannedTensor]:
    """The tensors of the text file, in file order."""
    plans = []
    for source_name, name in text_names(config).items():
        source = stored[source_name]
        shape = _shape(config, source_name, source)
        plans.append(
            PlannedTensor(name, shape, element_type(recipe, name, shape), source, _reorder(config, source_name))
        )
    if config.text.rope_scaling is not None:
        factors = rope_factors(config.cross_attention.head_width, config.text.rope_theta, config.text.rope_scaling)
        plans.append(PlannedTensor(_ROPE_FACTORS, factors.shape, GGMLQuantizationType.F32, factors))
    return plans


def general_metadata(name: str, model_type: str, recipe: Recipe, provenance: Provenance) -> dict[str, MetadataValue]:
    """The ``general.*`` keys of both files, the licence notice, and the mark of a demonstration model."""
    metadata: dict[str, MetadataValue] = {
        Keys.General.TYPE: model_type,
        Keys.General.NAME: name,
        Keys.General.FILE_TYPE: int(recipe.file_type),
        Keys.General.QUANTIZATION_VERSION: int(GGML_QUANT_VERSION),
    }
    if provenance.repository is not None:
        metadata[Keys.General.SOURCE_REPO_URL] = f"https://huggingface.co/{provenance.repository}"
    if provenance.base_model is not None:
        metadata[Keys.General.BASE_MODEL_COUNT] = 1
        metadata[Keys.General.BASE_MODEL_NAME.format(id=0)] = provenance.base_model.rpartition("/")[2]
        metadata[Keys.General.BASE_MODEL_REPO_URL.format(id=0)] = f"https://huggingface.co/{provenance.base_model}"
    optional = {
        Keys.General.LICENSE: provenance.license,
        Keys.General.LICENSE_NAME: provenance.license_name,
        Keys.General.LICENSE_LINK: provenance.license_link,
        mmproj_format.KEY_LICENSE_NOTICE: provenance.license_notice,
    }
    if provenance.demonstration:
        metadata[mmproj_format.KEY_DEMONSTRATION] = True
    return metadata | {key: value for key, value in optional.items() if value}


def _tokenizer_metadata(tokenizer: GgufTokenizer, chat_template: str | None) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {
        Keys.Tokenizer.MODEL: TOKENIZER_MODEL,
        Keys.Tokenizer.PRE: PRE_TOKENIZER,
        Keys.Tokenizer.LIST: tokenizer.tokens,
        Keys.Tokenizer.TOKEN_TYPE: tokenizer.token_types,
        Keys.Tokenizer.MERGES: tokenizer.merges,
        Keys.Tokenizer.BOS_ID: tokenizer.bos_id,
        Keys.Tokenizer.EOS_ID: tokenizer.eos_id,
        Keys.Tokenizer.ADD_BOS: True,
    }
    optional = {
        Keys.Tokenizer.EOT_ID: tokenizer.eot_id,
        Keys.Tokenizer.EOM_ID: tokenizer.eom_id,
        Keys.Tokenizer.PAD_ID: tokenizer.padding_id,
        Keys.Tokenizer.CHAT_TEMPLATE: chat_template,
    }
    return metadata | {key: value for key, value in optional.items() if value is not None}


def text_metadata(
    config: ModelConfig,
    general: Metadata,
    text_hash: str,
    *,
    tokenizer: GgufTokenizer,
    chat_template: str | None,
    end_token_ids: tuple[int, ...],
) -> dict[str, MetadataValue]:
    """All keys of the text file."""
    cross = config.cross_attention

    def key(template: str) -> str:
        return template.format(arch=TEXT_ARCHITECTURE)

    return {
        **general,
        mmproj_format.KEY_FORMAT_VERSION: mmproj_format.FORMAT_VERSION,
        mmproj_format.KEY_TEXT_HASH: text_hash,
        mmproj_format.KEY_VOCAB_ROWS: cross.vocab_rows,
        mmproj_format.KEY_IMAGE_TOKEN_ID: cross.image_token_id,
        mmproj_format.KEY_END_TOKEN_IDS: end_token_ids,
        key(Keys.LLM.BLOCK_COUNT): cross.self_attention_layers,
        key(Keys.LLM.CONTEXT_LENGTH): config.text.context_length,
        key(Keys.LLM.EMBEDDING_LENGTH): cross.embedding_length,
        key(Keys.LLM.FEED_FORWARD_LENGTH): cross.feed_forward_length,
        key(Keys.Attention.HEAD_COUNT): cross.head_count,
        key(Keys.Attention.HEAD_COUNT_KV): cross.head_count_kv,
        key(Keys.Attention.LAYERNORM_RMS_EPS): cross.rms_epsilon,
        key(Keys.Rope.FREQ_BASE): config.text.rope_theta,
        key(Keys.Rope.DIMENSION_COUNT): cross.head_width,
        key(Keys.LLM.VOCAB_SIZE): config.embedding_rows,
        **_tokenizer_metadata(tokenizer, chat_template),
    }
