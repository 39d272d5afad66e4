"""Convert a Hugging Face checkpoint into the pair of GGUF files that the runtime takes."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gguf import GGUFType

from visionward.convert.companions import read_chat_template, read_end_token_ids, read_preprocessing
from visionward.convert.encoding import PlannedTensor, encoded_chunks
from visionward.convert.mmproj_plan import mmproj_metadata, padding_collapses, plan_mmproj
from visionward.convert.model_config import ModelConfig, read_model_config
from visionward.convert.onnx_file import PlannedSource, check_weight_type, tower_outputs, tower_path, write_tower
from visionward.convert.provenance import Provenance, read_provenance
from visionward.convert.tensor_names import (
    EMBEDDING,
    HEAD,
    canonical_name,
    checked_tensors,
    expected_shapes,
    text_names,
)
from visionward.convert.text_plan import TextHash, general_metadata, plan_text, text_metadata
from visionward.convert.tokenizer import GgufTokenizer, read_tokenizer
from visionward.errors import CheckpointError
from visionward.formats import mmproj_format
from visionward.formats.gguf_file import (
    MetadataValue,
    checksum_placeholders,
    header_bytes,
    padded_size,
    string_entry,
    write_checksums,
    write_tensor_data,
)
from visionward.formats.onnx_format import data_path
from visionward.formats.output_file import GGUF, Outputs, PartFile, part_files, prepare_folder, scratch_file
from visionward.formats.pair_files import PairFiles
from visionward.formats.safetensors_reader import CheckpointTensor, read_tensors
from visionward.formats.text_format import TEXT_ARCHITECTURE
from visionward.machine.processor import usable_cores
from visionward.quant.tensor_types import RECIPES, Recipe
from visionward.quant.text_quantizer import TextJob, quantize_text


@dataclass(frozen=True)
class ConvertedPair:
    """The files of a converted model, which belong together.

    Attributes:
        text: the text GGUF.
        mmproj: the mmproj GGUF.
        onnx_tower: the vision tower as ONNX, if it was asked for.
    """

    text: Path
    mmproj: Path
    onnx_tower: Path | None = None


# Is told after every few megabytes: bytes written so far, bytes in all, the tensor at hand.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Checkpoint:
    """Everything about a checkpoint but its weights' bytes, checked."""

    config: ModelConfig
    tensors: Mapping[str, CheckpointTensor]
    tokenizer: GgufTokenizer
    chat_template: str | None
    end_token_ids: tuple[int, ...]
    provenance: Provenance


def _without_tied_head(
    where: Path, config: ModelConfig, tensors: Mapping[str, CheckpointTensor]
) -> dict[str, CheckpointTensor]:
    """Drop a head that is stored although it is tied, after seeing that it is the embedding indeed."""
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
            f"{where}: config.json says tie_word_embeddings, but {head.name!r} differs from {embedding.name!r}"
        )
    return rest


def _read_checkpoint(checkpoint: Path) -> _Checkpoint:
    config = read_model_config(checkpoint)
    statistics = read_preprocessing(checkpoint, config)
    tokenizer = read_tokenizer(checkpoint, config)
    stored = _without_tied_head(checkpoint, config, read_tensors(checkpoint))
    tensors = checked_tensors(str(checkpoint), stored, expected_shapes(config))
    vision = dataclasses.replace(
        config.vision,
        image_mean=statistics.mean,
        image_std=statistics.std,
        padding_collapses=padding_collapses(config, tensors),
    )
    config = dataclasses.replace(config, vision=vision)
    return _Checkpoint(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=read_chat_template(checkpoint),
        end_token_ids=read_end_token_ids(checkpoint, config, tokenizer),
        provenance=read_provenance(checkpoint, config.settings),
    )


def checkpoint_name(checkpoint: Path) -> str:
    """The folder's name; for a snapshot in the hub's cache, the repository's."""
    folder = checkpoint.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _recipe(parameter: str, name: str) -> Recipe:
    try:
        return RECIPES[name.lower()]
    except KeyError:
        raise CheckpointError(f"{parameter} is {name!r}, expected one of {', '.join(RECIPES)}") from None


def _write_text(
    part: PartFile,
    plans: list[PlannedTensor],
    metadata: dict[str, MetadataValue],
    advance: Callable[[PlannedTensor, int], None],
) -> str:
    """Write the text file; the hash in its header is known only when all of it was read. Returns the hash."""
    text_hash = TextHash()
    header = header_bytes(TEXT_ARCHITECTURE, metadata, plans)
    part.file.write(header)
    checksums = write_tensor_data(
        part.file, plans, lambda plan: encoded_chunks(plan, partial(text_hash.observe, plan)), advance=advance
    )
    digest = text_hash.hexdigest()
    # Packing a vocabulary takes seconds: the header is not made anew.
    before, placeholder, _ = header.partition(
        string_entry(mmproj_format.KEY_TEXT_HASH, mmproj_format.CHECKSUM_PLACEHOLDER)
    )
    if not placeholder:
        raise AssertionError("the header has no place for the hash")
    part.file.seek(len(before))
    part.file.write(string_entry(mmproj_format.KEY_TEXT_HASH, digest))
    part.file.flush()
    write_checksums(part.path, checksums)
    return digest


def _own_type(source: _Checkpoint) -> Recipe:
    """The unquantized type that holds the weights of the text file exactly and takes least room."""
    dtypes = {source.tensors[name].dtype for name in text_names(source.config)}
    return RECIPES[dtypes.pop().lower()] if len(dtypes) == 1 else RECIPES["f32"]


def _write_quantized_text(
    part: PartFile,
    plans: list[PlannedTensor],
    recipe: Recipe,
    unquantized: Path,
    write: Callable[[PartFile], str],
    advance: Callable[[PlannedTensor, int], None],
) -> str:
    """Write the text file unquantized, aside, and let llama.cpp quantize it. Returns the content's hash."""
    by_name = {plan.name: plan for plan in plans}
    with scratch_file(unquantized) as scratch:
        digest = write(scratch)
        job = TextJob(
            source=str(scratch.path),
            target=str(part.path),
            file_type=int(recipe.file_type),
            threads=usable_cores(),
        )

        def on_tensor(name: str) -> None:
            advance(by_name[name], by_name[name].nbytes)

        quantize_text(job, lambda size: prepare_folder(part.path.parent, size), on_tensor)
        # llama.cpp's quantizer copied the keys of the source, its checksums too.
        write_checksums(part.path)
    return digest


def _outputs(
    checkpoint: Path, pair: ConvertedPair, tower: Path | None, *, overwrite: bool
) -> tuple[Outputs, Outputs | None]:
    """The pair, and the tower if there is to be one."""
    names = {path.name for path in (pair.text, pair.mmproj, *([] if tower is None else [tower, data_path(tower)]))}
    # An older conversion may be in the checkpoint's folder; it is not read.
    inputs = tuple(path for path in checkpoint.iterdir() if path.name not in names)
    outputs = Outputs((pair.text, pair.mmproj), GGUF, inputs, overwrite)
    return outputs, None if tower is None else tower_outputs(tower, inputs, overwrite=overwrite)


def convert_checkpoint(
    checkpoint: Path,
    out_dir: Path,
    *,
    text_type: str = "f16",
    mmproj_type: str = "f16",
    onnx_type: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConvertedPair:
    """Convert an mllama checkpoint into ``<name>-text-<TYPE>.gguf`` and ``mmproj-<name>-<TYPE>.gguf``.

    Weights are read and written a few megabytes at a time. Both files are written under temporary names and renamed
    when both are complete. A text file whose type only llama.cpp's quantizer can make is written
    in the checkpoint's own type first, aside, which takes that much room on the disk for a while.

    Args:
        checkpoint: the folder with ``config.json``, safetensors files, tokenizer and preprocessor settings.
        out_dir: where the files go; made if missing.
        text_type: type of the text file, a name of ``visionward.quant.tensor_types.RECIPES``.
        mmproj_type: the same for the mmproj file.
        onnx_type: write ``vision-<name>-<type>.onnx`` too, with weights of this type, a name of
            ``visionward.formats.onnx_format.WEIGHT_TYPES``.
        name: the model's name, by default the folder's.
        overwrite: replace an older conversion.
        progress: is told how far the conversion is.

    Raises:
        CheckpointError: if the checkpoint cannot be converted.
        QuantizeError: if llama.cpp cannot quantize the text file.
        OutputError: if the files cannot be written, or something is there that must not be replaced.
    """
    if onnx_type is not None:
        check_weight_type(onnx_type)
    text_recipe, mmproj_recipe = _recipe("text_type", text_type), _recipe("mmproj_type", mmproj_type)
    name = checkpoint_name(checkpoint) if name is None else name
    if not name or Path(name).name != name:
        raise CheckpointError(f"the name {name!r} cannot be part of a file's name; choose another one")
    source = _read_checkpoint(checkpoint)
    plain_recipe = _own_type(source) if text_recipe.mixes else text_recipe
    text_plans = plan_text(source.config, source.tensors, plain_recipe)
    mmproj_plans = plan_mmproj(source.config, source.tensors, mmproj_recipe)
    total = sum(plan.nbytes for plan in (*text_plans, *mmproj_plans))
    if text_recipe.mixes:
        total += sum(plan.nbytes for plan in text_plans)
    done = 0

    def advance(tensor: PlannedTensor, written: int) -> None:
        nonlocal done
        done += written
        if progress is not None:
            progress(done, total, tensor.name)

    def write_text(part: PartFile) -> str:
        metadata = text_metadata(
            source.config,
            general_metadata(name, GGUFType.MODEL, plain_recipe, source.provenance)
            | checksum_placeholders(len(text_plans)),
            mmproj_format.CHECKSUM_PLACEHOLDER,
            tokenizer=source.tokenizer,
            chat_template=source.chat_template,
            end_token_ids=source.end_token_ids,
        )
        return _write_text(part, text_plans, metadata, advance)

    pair = ConvertedPair(
        text=out_dir / f"{name}-text-{text_recipe.name.upper()}.gguf",
        mmproj=out_dir / f"mmproj-{name}-{mmproj_recipe.name.upper()}.gguf",
    )
    unquantized = out_dir / f"{name}-text-{plain_recipe.name.upper()}.gguf"
    tower_target = None if onnx_type is None else tower_path(pair.mmproj, onnx_type)
    outputs, tower_files = _outputs(checkpoint, pair, tower_target, overwrite=overwrite)
    outputs.check()
    if tower_files is not None:
        tower_files.check()
    needed = padded_size(text_plans) + padded_size(mmproj_plans)
    prepare_folder(out_dir, needed, (pair.text, pair.mmproj, unquantized))
    with part_files(outputs) as (text_part, mmproj_part):
        if text_recipe.mixes:
            text_hash = _write_quantized_text(text_part, text_plans, text_recipe, unquantized, write_text, advance)
        else:
            text_hash = write_text(text_part)
        general = general_metadata(name, GGUFType.MMPROJ, mmproj_recipe, source.provenance)
        general |= checksum_placeholders(len(mmproj_plans))
        mmproj_keys = mmproj_metadata(source.config, general, text_hash)
        mmproj_part.file.write(header_bytes(mmproj_format.MMPROJ_ARCHITECTURE, mmproj_keys, mmproj_plans))
        checksums = write_tensor_data(mmproj_part.file, mmproj_plans, encoded_chunks, advance=advance)
        mmproj_part.file.flush()
        write_checksums(mmproj_part.path, checksums)
        # What was written is what the runtime takes.
        PairFiles.open(text_part.path, mmproj_part.path)
    if onnx_type is None or tower_files is None:
        return pair
    tower = PlannedSource.of(pair.mmproj, mmproj_plans)
    bar = None if progress is None else lambda written, size: progress(written, size, "vision tower")
    return dataclasses.replace(pair, onnx_tower=write_tower(tower, tower_files, weight_type=onnx_type, progress=bar))
