"""Read everything about a Hugging Face checkpoint but the bytes of its weights, and check that it can be converted."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from visionward.convert.companions import read_chat_template, read_end_token_ids, read_preprocessing
from visionward.convert.mmproj_plan import padding_collapses
from visionward.convert.model_config import ModelConfig, read_model_config
from visionward.convert.provenance import Provenance, read_provenance
from visionward.convert.tensor_names import EMBEDDING, HEAD, canonical_name, checked_tensors, expected_shapes
from visionward.convert.tokenizer import GgufTokenizer, read_tokenizer
from visionward.errors import CheckpointError
from visionward.formats.safetensors_reader import CheckpointTensor, read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted.

    Attributes:
        config: ``config.json``, with the preprocessing settings.
        tensors: the weights by their names on the hub.
        tokenizer: ``tokenizer.json`` as GGUF has it.
        chat_template: the Jinja text; None if there is none.
        end_token_ids: tokens that end an answer.
        provenance: origin and licence.
    """

    config: ModelConfig
    tensors: Mapping[str, CheckpointTensor]
    tokenizer: GgufTokenizer
    chat_template: str | None
    end_token_ids: tuple[int, ...]
    provenance: Provenance


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or the checkpoint cannot be converted.
    """
    config = read_model_config(folder)
    statistics = read_preprocessing(folder, config)
    tokenizer = read_tokenizer(folder, config)
    stored = _without_tied_head(folder, config, read_tensors(folder))
    tensors = checked_tensors(str(folder), stored, expected_shapes(config))
    vision = dataclasses.replace(
        config.vision,
        image_mean=statistics.mean,
        image_std=statistics.std,
        padding_collapses=padding_collapses(config, tensors),
    )
    config = dataclasses.replace(config, vision=vision)
    return Checkpoint(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=read_chat_template(folder),
        end_token_ids=read_end_token_ids(folder, config, tokenizer),
        provenance=read_provenance(folder, config.settings),
    )


def checkpoint_name(folder: Path) -> str:
    """The folder's name. For a snapshot in the hub's cache, the repository's name."""
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent.name.rpartition("--")[2]
    return resolved.name


def _without_tied_head(
    where: Path, config: ModelConfig, tensors: Mapping[str, CheckpointTensor]
) -> dict[str, CheckpointTensor]:
    """Drop a head that is stored although it is tied, after checking that it equals the embedding."""
    stored = {canonical_name(name): name for name in tensors}
    rest = {name: tensor for name, tensor in tensors.items() if not (config.text.tied and name == stored.get(HEAD))}
    if len(rest) == len(tensors) or EMBEDDING not in stored:
        return rest
    head, embedding = tensors[stored[HEAD]], tensors[stored[EMBEDDING]]
    width = config.cross_attention.embedding_length
    same = head.dtype == embedding.dtype and all(shape[1:] == (width,) for shape in (head.shape, embedding.shape))
    if same:
        # The head may have fewer rows: those of the extra tokens are never predicted.
        pairs = zip(head.chunks(width), embedding.chunks(width), strict=False)
        same = all((a == b[: len(a)]).all() for a, b in pairs)
    if not same:
        raise CheckpointError(
            f"{where}: config.json sets tie_word_embeddings, but {head.name!r} differs from {embedding.name!r}"
        )
    return rest
