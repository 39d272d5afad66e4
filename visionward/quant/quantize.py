"""Quantize either file of a pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from visionward.errors import ModelFileError, QuantizeError
from visionward.formats import mmproj_format
from visionward.formats.gguf_file import write_checksums
from visionward.formats.gguf_header import GgufHeader, GgufTensor
from visionward.formats.imatrix_file import Imatrix, read_imatrix
from visionward.formats.mmproj_file import check_mmproj_tensors, read_mmproj_config
from visionward.formats.mmproj_format import EMBEDDING_TABLES
from visionward.formats.output_file import GGUF, Outputs, part_files, prepare_folder
from visionward.formats.tensor_checksums import check_checksums, has_checksums
from visionward.formats.text_format import TEXT_ARCHITECTURE, read_text_config
from visionward.machine.processor import usable_cores
from visionward.progress import OnProgress, ProgressCounter
from visionward.quant.mmproj_quantizer import MmprojQuantizer, can_have
from visionward.quant.tensor_progress import TensorProgress
from visionward.quant.tensor_types import RECIPES, UNQUANTIZED, Recipe, TypeOverride
from visionward.quant.text_quantizer import TextJob, quantize_text

_SHOWN = 3


@dataclass(frozen=True)
class QuantizedFile:
    """What came of it.

    Attributes:
        path: the new file.
        source_nbytes, nbytes: of the tensors of the source and of the new file.
        types: element type to number of tensors, the one with most bytes first.
        notes: what is worth knowing, a sentence each.
    """

    path: Path
    source_nbytes: int
    nbytes: int
    types: Mapping[str, int]
    notes: tuple[str, ...]


def quantize_file(
    source: Path,
    target: Path,
    kind: str,
    *,
    imatrix: Path | None = None,
    threads: int | None = None,
    overrides: Sequence[TypeOverride] = (),
    allow_requantize: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> QuantizedFile:
    """Quantize a text file or an mmproj file.

    The new file is written aside and gets its name when it is complete.

    Args:
        source: the file, of type f32, f16 or bf16.
        target: the new file.
        kind: a name of ``RECIPES``.
        imatrix: an importance matrix, as ``visionward imatrix`` or llama.cpp's tools write it.
        threads: that compute; all cores unless given.
        overrides: types by tensor name, the first that matches counts. In an mmproj file one that the runtime could not
            load a tensor with is passed over, and a note says so.
        allow_requantize: take a source that is quantized already, too.
        overwrite: replace a GGUF file that has the new one's name.
        on_progress: called with the progress of each stage, in bytes: ``checking`` the source, ``quantizing``,
            ``checksums`` of the new file.

    Raises:
        ModelFileError: if the source is missing, damaged, or neither of the two kinds.
        QuantizeError: if it cannot be quantized so.
        OutputError: if the new file cannot be written, or something is there that must not be replaced.
    """
    recipe = find_recipe(kind)
    header = GgufHeader(source)
    is_text = _is_text(header)
    outputs = Outputs((target,), GGUF, (source,) if imatrix is None else (source, imatrix), overwrite)
    outputs.check()
    _check_source(header, allow_requantize=allow_requantize)
    _check_overrides(header, overrides, recipe, is_text=is_text)
    if imatrix is not None and not recipe.quantizes:
        raise QuantizeError(f"an importance matrix makes no difference to {recipe.name}: leave it out.")
    threads = threads or usable_cores()
    matrix = None if imatrix is None else read_imatrix(imatrix)
    importance = {} if matrix is None else _importance(header, matrix, imatrix)
    origin = None if matrix is None else matrix.source
    # The new file's checksums would otherwise vouch for what was damaged before.
    check_checksums([header], ProgressCounter(on_progress, "checking", header.data_nbytes, "bytes").advance)
    prepare_folder(target.parent, 0)
    with part_files(outputs) as (part,):
        sizes = {name: tensor.nbytes for name, tensor in header.tensors.items()}
        tensors = TensorProgress(on_progress, "quantizing", sizes)
        if is_text:
            job = TextJob(
                source=str(source),
                target=str(part.path),
                file_type=int(recipe.file_type),
                threads=threads,
                allow_requantize=allow_requantize,
                overrides=tuple(overrides),
                importance=importance,
                imatrix=origin,
            )
            quantize_text(job, lambda size: prepare_folder(target.parent, size), tensors.begin)
        else:
            quantizer = MmprojQuantizer(
                header,
                recipe,
                overrides=overrides,
                importance=importance,
                imatrix=origin,
                threads=threads,
            )
            prepare_folder(target.parent, quantizer.nbytes)
            quantizer.write(part.file, tensors.begin)
            part.file.flush()
        tensors.finish()
        if has_checksums(header):
            write_checksums(part.path, on_progress=on_progress)
        result = GgufHeader(part.path)
        _check_result(header, result, is_text=is_text)
    return QuantizedFile(
        path=target,
        source_nbytes=header.data_nbytes,
        nbytes=result.data_nbytes,
        types=_types(result),
        notes=(
            *nearest_notes(result, recipe),
            *([] if is_text else _passed_over_notes(result, overrides)),
            *_importance_notes(result, importance),
            *_checksum_notes(header),
        ),
    )


def find_recipe(kind: str) -> Recipe:
    """The recipe of a name.

    Raises:
        QuantizeError: if there is none.
    """
    if kind.lower() not in RECIPES:
        raise QuantizeError(f"{kind!r} is no type that visionward writes, expected one of {', '.join(RECIPES)}.")
    return RECIPES[kind.lower()]


def _is_text(header: GgufHeader) -> bool:
    architecture = header.get("general.architecture", str) if header.has("general.architecture") else None
    if architecture not in (TEXT_ARCHITECTURE, mmproj_format.MMPROJ_ARCHITECTURE):
        raise ModelFileError(
            f"{header.path} has architecture {architecture!r}, expected a text file ({TEXT_ARCHITECTURE!r}) or an "
            f"mmproj file ({mmproj_format.MMPROJ_ARCHITECTURE!r}) of `visionward convert`."
        )
    return architecture == TEXT_ARCHITECTURE


def _types(header: GgufHeader) -> dict[str, int]:
    nbytes: dict[GGMLQuantizationType, int] = {}
    count: dict[GGMLQuantizationType, int] = {}
    for tensor in header.tensors.values():
        nbytes[tensor.dtype] = nbytes.get(tensor.dtype, 0) + tensor.nbytes
        count[tensor.dtype] = count.get(tensor.dtype, 0) + 1
    return {kind.name: count[kind] for kind in sorted(nbytes, key=lambda kind: -nbytes[kind])}


def _check_source(header: GgufHeader, *, allow_requantize: bool) -> None:
    quantized = sorted({tensor.dtype.name for tensor in header.tensors.values() if tensor.dtype not in UNQUANTIZED})
    if quantized and not allow_requantize:
        raise QuantizeError(
            f"{header.path} is already quantized ({', '.join(quantized)}), and quantizing it again adds to the error: "
            "start from the f16 or bf16 file, or allow it (--allow-requantize)."
        )


def _is_matrix(tensor: GgufTensor) -> bool:
    return len(tensor.shape) > 1


def _check_overrides(header: GgufHeader, overrides: Sequence[TypeOverride], recipe: Recipe, *, is_text: bool) -> None:
    for override in overrides:
        matrices = [
            tensor for tensor in header.tensors.values() if _is_matrix(tensor) and override.matches(tensor.name)
        ]
        if not matrices:
            raise QuantizeError(f"{override.pattern!r} matches the name of no matrix in {header.path}.")
        if not is_text and not any(can_have(tensor, override) for tensor in matrices):
            names = _listed([tensor.name for tensor in matrices])
            raise QuantizeError(
                f"{override.pattern!r} matches only what cannot be loaded with the type {override.element_type.name} "
                f"in {header.path}: {names} can be f32, f16 or bf16."
            )
    if overrides and is_text and not recipe.quantizes:
        raise QuantizeError(
            f"llama.cpp takes types by tensor name only together with a quantized type, and {recipe.name} is none."
        )


def _importance(header: GgufHeader, matrix: Imatrix, path: Path | None) -> dict[str, npt.NDArray[np.float32]]:
    """The part of an importance matrix that is about this file."""
    found = {name: values for name, values in matrix.importance.items() if name in header.tensors}
    if not found:
        raise QuantizeError(f"{path} has no statistics for any matrix of {header.path}: it is of another model.")
    for name, values in found.items():
        columns = header.tensors[name].shape[-1]
        if values.size != columns:
            raise QuantizeError(
                f"{path} has {values.size} columns for {name}, {header.path} has {columns}: it is of another model."
            )
    return found


def _check_result(source: GgufHeader, result: GgufHeader, *, is_text: bool) -> None:
    """See that nothing was left out, and that the runtime loads it."""
    expected = {name: tensor.shape for name, tensor in source.tensors.items()}
    found = {name: tensor.shape for name, tensor in result.tensors.items()}
    if found != expected:
        raise QuantizeError(f"the quantizer wrote other tensors than {source.path} has: nothing was kept.")
    if is_text:
        read_text_config(result)
    else:
        check_mmproj_tensors(result, read_mmproj_config(result))


def _matrices(count: int) -> str:
    return "1 matrix" if count == 1 else f"{count} matrices"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def nearest_notes(result: GgufHeader, recipe: Recipe) -> list[str]:
    """Which matrices of a file got the nearest type that holds their rows, instead of the one that was meant."""
    groups: dict[tuple[int, GGMLQuantizationType], list[str]] = {}
    for name, tensor in result.tensors.items():
        length = tensor.shape[-1]
        block = int(GGML_QUANT_SIZES[_meant_block(name, recipe)][0])
        if _is_matrix(tensor) and name not in EMBEDDING_TABLES and length % block and tensor.dtype != recipe.matrix:
            groups.setdefault((length, tensor.dtype), []).append(name)
    return [
        f"{_matrices(len(names))} with rows of {length} values got {kind.name}, the nearest type that holds such rows: "
        f"{_listed(names)}."
        for (length, kind), names in groups.items()
    ]


def _passed_over_notes(result: GgufHeader, overrides: Sequence[TypeOverride]) -> list[str]:
    """Which tensors of an mmproj file cannot have the type that was asked for by name."""
    notes = []
    for override in overrides:
        names = [
            tensor.name
            for tensor in result.tensors.values()
            if _is_matrix(tensor) and override.matches(tensor.name) and not can_have(tensor, override)
        ]
        if names:
            notes.append(
                f"{override.pattern}={override.element_type.name.lower()} was passed over for {_matrices(len(names))} "
                f"that cannot be loaded so: {_listed(names)}."
            )
    return notes


def _meant_block(name: str, recipe: Recipe) -> GGMLQuantizationType:
    return recipe.tower if name.startswith(("v.", "mm.")) else recipe.matrix


def _checksum_notes(source: GgufHeader) -> list[str]:
    if has_checksums(source):
        return []
    return [f"{source.path.name} has no checksums, and so the new file has none: convert the model again to have them."]


def _importance_notes(result: GgufHeader, importance: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    if not importance:
        return []
    missing = [
        name for name, tensor in result.tensors.items() if tensor.dtype not in UNQUANTIZED and name not in importance
    ]
    if not missing:
        return []
    count = _matrices(len(missing))
    return [f"the importance matrix has no statistics for {count} that were quantized: {_listed(missing)}."]
