"""Convert a Hugging Face checkpoint into the pair of GGUF files that the runtime loads, and into an ONNX tower."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gguf import GGUFType

from visionward.convert.checkpoint import Checkpoint, checkpoint_name, read_checkpoint
from visionward.convert.encoding import PlannedTensor, encoded_chunks
from visionward.convert.mmproj_plan import mmproj_metadata, plan_mmproj
from visionward.convert.onnx_file import (
    PlannedSource,
    approximate_bytes,
    check_weight_type,
    tower_outputs,
    tower_path,
    write_tower,
)
from visionward.convert.tensor_names import text_names
from visionward.convert.text_plan import TextHash, general_metadata, plan_text, text_metadata
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
from visionward.formats.text_format import TEXT_ARCHITECTURE
from visionward.machine.processor import usable_cores
from visionward.progress import OnProgress, ProgressCounter
from visionward.quant.tensor_progress import TensorProgress
from visionward.quant.tensor_types import RECIPES, Recipe
from visionward.quant.text_quantizer import TextJob, quantize_text


@dataclass(frozen=True)
class ConvertedPair:
    """The files of a converted model, which belong together.

    Attributes:
        text: the text GGUF.
        mmproj: the mmproj GGUF.
        onnx_tower: the vision tower as ONNX; None if it was not asked for.
    """

    text: Path
    mmproj: Path
    onnx_tower: Path | None = None


def convert_checkpoint(
    checkpoint: Path,
    out_dir: Path,
    *,
    text_type: str = "f16",
    mmproj_type: str = "f16",
    onnx_type: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ConvertedPair:
    """Convert an mllama checkpoint into ``<name>-text-<TYPE>.gguf`` and ``mmproj-<name>-<TYPE>.gguf``.

    Weights are read and written a few megabytes at a time. Both files are written under temporary names and renamed
    when both are complete. If only llama.cpp's quantizer can make the type of the text file, a temporary text file of
    the checkpoint's own type is written first, which needs disk space for as long as the conversion runs.

    Args:
        checkpoint: the folder with ``config.json``, safetensors files, tokenizer and preprocessor settings.
        out_dir: where the files go; created if missing.
        text_type: type of the text file, a name of ``visionward.quant.tensor_types.RECIPES``.
        mmproj_type: the same for the mmproj file.
        onnx_type: write ``vision-<name>-<type>.onnx`` too, with weights of this type, a name of
            ``visionward.formats.onnx_format.WEIGHT_TYPES``. It is made from the checkpoint, whatever the mmproj type.
        name: the model's name, by default the folder's.
        overwrite: replace files of an earlier conversion.
        on_progress: called with the progress of each stage, in bytes: ``text file``, ``quantizing``, ``checksums``,
            ``mmproj file``, ``ONNX tower``.

    Raises:
        CheckpointError: if the checkpoint cannot be converted.
        QuantizeError: if llama.cpp cannot quantize the text file.
        OutputError: if the files cannot be written, or would replace something that must not be replaced.
    """
    if onnx_type is not None:
        check_weight_type(onnx_type)
    recipe, mmproj_recipe = _recipe("text_type", text_type), _recipe("mmproj_type", mmproj_type)
    name = checkpoint_name(checkpoint) if name is None else name
    if not name or Path(name).name != name:
        raise CheckpointError(f"the name {name!r} cannot be part of a file's name; choose another one")
    source = read_checkpoint(checkpoint)
    text = _TextWriter(source, name, recipe, on_progress)
    mmproj_plans = plan_mmproj(source.config, source.tensors, mmproj_recipe)
    pair = ConvertedPair(
        text=out_dir / text_file_name(name, recipe),
        mmproj=out_dir / f"mmproj-{name}-{mmproj_recipe.name.upper()}.gguf",
    )
    tower = None if onnx_type is None else tower_path(pair.mmproj, onnx_type)
    outputs, tower_files = _outputs(checkpoint, pair, tower, overwrite=overwrite)
    outputs.check()
    if tower_files is not None:
        tower_files.check()
    needed = padded_size(text.plans) + padded_size(mmproj_plans)
    if onnx_type is not None:
        needed += approximate_bytes(mmproj_plans, onnx_type)
    prepare_folder(out_dir, needed, (pair.text, pair.mmproj, out_dir / text.unquantized_name))
    with part_files(outputs) as (text_part, mmproj_part):
        text_hash = text.write(text_part)
        general = general_metadata(name, GGUFType.MMPROJ, mmproj_recipe, source.provenance)
        general |= checksum_placeholders(len(mmproj_plans))
        metadata = mmproj_metadata(source.config, general, text_hash)
        mmproj_part.file.write(header_bytes(mmproj_format.MMPROJ_ARCHITECTURE, metadata, mmproj_plans))
        counter = ProgressCounter(on_progress, "mmproj file", _nbytes(mmproj_plans), "bytes")
        checksums = write_tensor_data(mmproj_part.file, mmproj_plans, encoded_chunks, advance=counter.advance)
        mmproj_part.file.flush()
        write_checksums(mmproj_part.path, checksums)
        # The runtime must be able to open what was written.
        PairFiles.open(text_part.path, mmproj_part.path)
    if onnx_type is None or tower_files is None:
        return pair
    planned = PlannedSource.of(pair.mmproj, mmproj_plans)
    return dataclasses.replace(
        pair, onnx_tower=write_tower(planned, tower_files, weight_type=onnx_type, on_progress=on_progress)
    )


def text_file_name(name: str, recipe: Recipe) -> str:
    """The name of a model's text file of one type."""
    return f"{name}-text-{recipe.name.upper()}.gguf"


def _nbytes(plans: Sequence[PlannedTensor]) -> int:
    return sum(plan.nbytes for plan in plans)


def _recipe(parameter: str, name: str) -> Recipe:
    try:
        return RECIPES[name.lower()]
    except KeyError:
        raise CheckpointError(f"{parameter} is {name!r}, expected one of {', '.join(RECIPES)}") from None


def _outputs(
    checkpoint: Path, pair: ConvertedPair, tower: Path | None, *, overwrite: bool
) -> tuple[Outputs, Outputs | None]:
    """The pair, and the tower if there is to be one."""
    names = {path.name for path in (pair.text, pair.mmproj, *([] if tower is None else [tower, data_path(tower)]))}
    # An earlier conversion may be in the checkpoint's folder; it is not an input.
    inputs = tuple(path for path in checkpoint.iterdir() if path.name not in names)
    outputs = Outputs((pair.text, pair.mmproj), GGUF, inputs, overwrite)
    return outputs, None if tower is None else tower_outputs(tower, inputs, overwrite=overwrite)


class _TextWriter:
    """Writes the text file, in two steps if only llama.cpp's quantizer can make its type."""

    def __init__(self, source: Checkpoint, name: str, recipe: Recipe, on_progress: OnProgress | None) -> None:
        self._source = source
        self._name = name
        self._recipe = recipe
        self._unquantized = _own_type(source) if recipe.mixes else recipe
        self._on_progress = on_progress
        self.plans = plan_text(source.config, source.tensors, self._unquantized)

    @property
    def unquantized_name(self) -> str:
        """The name that a text file of the first step would have."""
        return text_file_name(self._name, self._unquantized)

    def write(self, part: PartFile) -> str:
        """Write the file. Returns the text hash."""
        if not self._recipe.mixes:
            return self._write_unquantized(part)
        with scratch_file(part.final.with_name(self.unquantized_name)) as scratch:
            text_hash = self._write_unquantized(scratch)
            job = TextJob(
                source=str(scratch.path),
                target=str(part.path),
                file_type=int(self._recipe.file_type),
                threads=usable_cores(),
            )
            tensors = TensorProgress(self._on_progress, "quantizing", {plan.name: plan.nbytes for plan in self.plans})
            quantize_text(job, lambda size: prepare_folder(part.path.parent, size), tensors.begin)
            tensors.finish()
            # llama.cpp's quantizer copied the source's keys, the checksums among them.
            write_checksums(part.path, on_progress=self._on_progress)
        return text_hash

    def _write_unquantized(self, part: PartFile) -> str:
        """Write the file without llama.cpp. The hash in its header is known only when all weights were read."""
        source = self._source
        general = general_metadata(self._name, GGUFType.MODEL, self._unquantized, source.provenance)
        metadata: dict[str, MetadataValue] = text_metadata(
            source.config,
            general | checksum_placeholders(len(self.plans)),
            mmproj_format.CHECKSUM_PLACEHOLDER,
            tokenizer=source.tokenizer,
            chat_template=source.chat_template,
            end_token_ids=source.end_token_ids,
        )
        text_hash = TextHash()
        header = header_bytes(TEXT_ARCHITECTURE, metadata, self.plans)
        part.file.write(header)
        counter = ProgressCounter(self._on_progress, "text file", _nbytes(self.plans), "bytes")
        checksums = write_tensor_data(
            part.file,
            self.plans,
            lambda plan: encoded_chunks(plan, partial(text_hash.observe, plan)),
            advance=counter.advance,
        )
        digest = text_hash.hexdigest()
        # Encoding a vocabulary takes seconds, so the header is patched instead of made again.
        before, placeholder, _ = header.partition(
            string_entry(mmproj_format.KEY_TEXT_HASH, mmproj_format.CHECKSUM_PLACEHOLDER)
        )
        if not placeholder:
            raise AssertionError("the header has no placeholder for the text hash")
        part.file.seek(len(before))
        part.file.write(string_entry(mmproj_format.KEY_TEXT_HASH, digest))
        part.file.flush()
        write_checksums(part.path, checksums)
        return digest


def _own_type(source: Checkpoint) -> Recipe:
    """The smallest unquantized type that holds the weights of the text file exactly."""
    dtypes = {source.tensors[name].dtype for name in text_names(source.config)}
    return RECIPES[dtypes.pop().lower()] if len(dtypes) == 1 else RECIPES["f32"]
