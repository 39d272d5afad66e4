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
from visionward.quant.mmproj_quantizer import MmprojQuantizer, supports
from visionward.quant.tensor_progress import TensorProgress
from visionward.quant.tensor_types import RECIPES, UNQUANTIZED, Recipe, TypeOverride
from visionward.quant.text_quantizer import TextJob, quantize_text
from visionward.quantities import count_text

_MAX_NAMES = 3


@dataclass(frozen=True)
class QuantizedFile:
    """The result of quantizing a file.

    Attributes:
        path: the new file.
        source_nbytes: bytes of the tensors of the source.
        nbytes: bytes of the tensors of the new file.
        types: number of tensors by element type, the type with most bytes first.
        notes: sentences about tensors that were treated in an unexpected way.
    """

    path: Path
    source_nbytes: int
    nbytes: int
    types: Mapping[str, int]
    notes: tuple[str, ...]


def quantize_file(
    source: Path,
    target: Path,
    file_type: str,
    *,
    imatrix: Path | None = None,
    threads: int | None = None,
    overrides: Sequence[TypeOverride] = (),
    allow_requantize: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> QuantizedFile:
    """Quantize a text file or an mmproj file.

    The new file is written under a temporary name and renamed when it is complete.

    Args:
        source: the file, of type f32, f16 or bf16.
        target: the new file.
        file_type: a name of ``RECIPES``.
        imatrix: an importance matrix, as ``visionward imatrix`` or llama.cpp's tools write it.
        threads: number of threads; all cores if not given.
        overrides: types by tensor name; the first match applies. In an mmproj file, an override that the runtime could
            not load a tensor with is ignored, with a note.
        allow_requantize: accept a source that is already quantized.
        overwrite: replace an existing GGUF file.
        on_progress: called with the progress of each stage, in bytes: ``checking file`` for the source, ``quantizing``,
            ``checksums`` of the new file.

    Raises:
        ModelFileError: if the source is missing, damaged, or neither a text file nor an mmproj file.
        QuantizeError: if it cannot be quantized in this way.
        OutputError: if the new file cannot be written, or would replace something that must not be replaced.
    """
    recipe = find_recipe(file_type)
    header = GgufHeader(source)
    is_text = _is_text(header)
    outputs = Outputs((target,), GGUF, (source,) if imatrix is None else (source, imatrix), overwrite)
    outputs.check()
    _check_source(header, allow_requantize=allow_requantize)
    _check_overrides(header, overrides, recipe, is_text=is_text)
    if imatrix is not None and not recipe.quantizes:
        raise QuantizeError(f"an importance matrix has no effect on {recipe.name}: leave it out.")
    threads = threads or usable_cores()
    matrix = None if imatrix is None else read_imatrix(imatrix)
    importance = {} if matrix is None else _importance(header, matrix, imatrix)
    origin = None if matrix is None else matrix.source
    # Otherwise a damaged source would get valid checksums.
    check_checksums([header], ProgressCounter(on_progress, "checking file", header.data_nbytes, "bytes").advance)
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
            *([] if is_text else _ignored_notes(result, overrides)),
            *_importance_notes(result, importance),
            *_checksum_notes(header),
        ),
    )


def find_recipe(file_type: str) -> Recipe:
    """The recipe of a file type.

    Raises:
        QuantizeError: if the file type is unknown.
    """
    if file_type.lower() not in RECIPES:
        raise QuantizeError(f"unknown file type {file_type!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[file_type.lower()]


def _is_text(header: GgufHeader) -> bool:
    architecture = header.get("general.architecture", str) if header.has("general.architecture") else None
    if architecture not in (TEXT_ARCHITECTURE, mmproj_format.MMPROJ_ARCHITECTURE):
        raise ModelFileError(
            f"{header.path} has architecture {architecture!r}, expected a text file ({TEXT_ARCHITECTURE!r}) or an "
            f"mmproj file ({mmproj_format.MMPROJ_ARCHITECTURE!r}) that `visionward convert` wrote."
        )
    return architecture == TEXT_ARCHITECTURE


def _types(header: GgufHeader) -> dict[str, int]:
    nbytes: dict[GGMLQuantizationType, int] = {}
    count: dict[GGMLQuantizationType, int] = {}
    for tensor in header.tensors.values():
        nbytes[tensor.dtype] = nbytes.get(tensor.dtype, 0) + tensor.nbytes
        count[tensor.dtype] = count.get(tensor.dtype, 0) + 1
    return {dtype.name: count[dtype] for dtype in sorted(nbytes, key=lambda dtype: -nbytes[dtype])}


def _check_source(header: GgufHeader, *, allow_requantize: bool) -> None:
    quantized = sorted({tensor.dtype.name for tensor in header.tensors.values() if tensor.dtype not in UNQUANTIZED})
    if quantized and not allow_requantize:
        raise QuantizeError(
            f"{header.path} is already quantized ({', '.join(quantized)}), and quantizing it again adds to the error: "
            "use the f16 or bf16 file, or allow it with --allow-requantize (in Python: allow_requantize=True)."
        )


def _is_matrix(tensor: GgufTensor) -> bool:
    return len(tensor.shape) > 1


def _check_overrides(header: GgufHeader, overrides: Sequence[TypeOverride], recipe: Recipe, *, is_text: bool) -> None:
    for override in overrides:
        matrices = [
            tensor for tensor in header.tensors.values() if _is_matrix(tensor) and override.matches(tensor.name)
        ]
        if not matrices:
            raise QuantizeError(f"{override.pattern!r} matches no matrix of {header.path}.")
        if not is_text and not any(supports(tensor, override) for tensor in matrices):
            names = _listed([tensor.name for tensor in matrices])
            raise QuantizeError(
                f"{override.pattern!r} matches only tensors of {header.path} that do not support "
                f"{override.element_type.name}: {names} can be f32, f16 or bf16."
            )
    if overrides and is_text and not recipe.quantizes:
        raise QuantizeError(f"types by tensor name need a quantized file type, which {recipe.name} is not.")


def _importance(header: GgufHeader, matrix: Imatrix, path: Path | None) -> dict[str, npt.NDArray[np.float32]]:
    """The entries of an importance matrix for the tensors of this file."""
    found = {name: values for name, values in matrix.importance.items() if name in header.tensors}
    if not found:
        raise QuantizeError(f"{path} has no statistics for any matrix of {header.path}: it belongs to another model.")
    for name, values in found.items():
        columns = header.tensors[name].shape[-1]
        if values.size != columns:
            raise QuantizeError(
                f"{path} has {values.size} columns for {name}, {header.path} has {columns}: it belongs to another "
                "model."
            )
    return found


def _check_result(source: GgufHeader, result: GgufHeader, *, is_text: bool) -> None:
    """Check that no tensor is missing, and that the runtime can load the file."""
    expected = {name: tensor.shape for name, tensor in source.tensors.items()}
    found = {name: tensor.shape for name, tensor in result.tensors.items()}
    if found != expected:
        raise QuantizeError(f"the quantizer wrote other tensors than those of {source.path}: the new file was removed.")
    if is_text:
        read_text_config(result)
    else:
        check_mmproj_tensors(result, read_mmproj_config(result))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def nearest_notes(result: GgufHeader, recipe: Recipe) -> list[str]:
    """Notes about matrices that have another type than the recipe's, because their rows do not fit into its blocks."""
    groups: dict[tuple[int, GGMLQuantizationType], list[str]] = {}
    for name, tensor in result.tensors.items():
        length = tensor.shape[-1]
        block = int(GGML_QUANT_SIZES[_recipe_type(name, recipe)][0])
        if _is_matrix(tensor) and name not in EMBEDDING_TABLES and length % block and tensor.dtype != recipe.matrix:
            groups.setdefault((length, tensor.dtype), []).append(name)
    return [
        f"{count_text(len(names), 'matrix', 'matrices')} with rows of {length} values became {dtype.name}, the nearest "
        f"type for such rows: {_listed(names)}."
        for (length, dtype), names in groups.items()
    ]


def _ignored_notes(result: GgufHeader, overrides: Sequence[TypeOverride]) -> list[str]:
    """Notes about tensors of an mmproj file that cannot have the type of an override."""
    notes = []
    for override in overrides:
        names = [
            tensor.name
            for tensor in result.tensors.values()
            if _is_matrix(tensor) and override.matches(tensor.name) and not supports(tensor, override)
        ]
        if names:
            notes.append(
                f"{override.pattern}={override.element_type.name.lower()} was ignored for "
                f"{count_text(len(names), 'matrix', 'matrices')} that cannot have this type: {_listed(names)}."
            )
    return notes


def _recipe_type(name: str, recipe: Recipe) -> GGMLQuantizationType:
    return recipe.tower if name.startswith(("v.", "mm.")) else recipe.matrix


def _checksum_notes(source: GgufHeader) -> list[str]:
    if has_checksums(source):
        return []
    return [f"{source.path.name} has no checksums, so the new file has none: convert the model again to add them."]


def _importance_notes(result: GgufHeader, importance: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    if not importance:
        return []
    missing = [
        name for name, tensor in result.tensors.items() if tensor.dtype not in UNQUANTIZED and name not in importance
    ]
    if not missing:
        return []
    count = count_text(len(missing), "quantized matrix", "quantized matrices")
    return [f"the importance matrix has no statistics for {count}: {_listed(missing)}."]
