"""Export the vision tower as ONNX, from a checkpoint or from an mmproj file."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from visionward.convert.encoding import PlannedTensor, encoded_chunks
from visionward.convert.onnx_tower import TowerEmitter
from visionward.errors import ModelFileError, QuantizeError
from visionward.formats import mmproj_format
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import check_mmproj_tensors, read_mmproj_config, tower_hash
from visionward.formats.mmproj_format import MmprojConfig
from visionward.formats.onnx_format import WEIGHT_TYPES, checksums, data_path, is_tower
from visionward.formats.output_file import FileKind, Outputs, part_files, prepare_folder
from visionward.formats.tensor_checksums import check_checksums
from visionward.progress import OnProgress, ProgressCounter
from visionward.runtime.ggml.row_encoding import decode_rows

Floats = npt.NDArray[np.float32]

_BYTES_PER_WEIGHT = {"f32": 4, "f16": 2, "int8": 1}
_MMPROJ_NAME = re.compile(r"mmproj-(.+)-[A-Za-z0-9_]+")


@dataclass(frozen=True)
class PlannedSource:
    """The tensors of a checkpoint that an mmproj file was made from.

    Attributes:
        config: the configuration in the mmproj file, where numbers are rounded.
        tower_hash: the tower hash of the mmproj file.
        plans: its tensors by name.
    """

    config: MmprojConfig
    tower_hash: str
    plans: Mapping[str, PlannedTensor]

    @classmethod
    def of(cls, mmproj: Path, plans: Iterable[PlannedTensor]) -> "PlannedSource":
        """The source for a file that was written from these plans."""
        file = GgufHeader(mmproj, mmproj_format.MMPROJ_ARCHITECTURE)
        return cls(read_mmproj_config(file), tower_hash(file), {plan.name: plan for plan in plans})

    def array(self, name: str) -> Floats:
        """A tensor, float32, rows first."""
        plan = self.plans[name]
        as_floats = PlannedTensor(name, plan.shape, GGMLQuantizationType.F32, plan.source, plan.reorder)
        parts = [part.view(np.float32).reshape(-1) for part in encoded_chunks(as_floats)]
        return np.concatenate(parts).reshape(plan.shape)


class MmprojSource:
    """The tensors of an mmproj file of any type.

    Raises:
        ModelFileError: if the file is damaged or of another format.
    """

    def __init__(self, path: Path, on_progress: OnProgress | None = None) -> None:
        self._file = GgufHeader(path, mmproj_format.MMPROJ_ARCHITECTURE)
        self.config = read_mmproj_config(self._file)
        check_mmproj_tensors(self._file, self.config)
        counter = ProgressCounter(on_progress, "checking file", self._file.data_nbytes, "bytes")
        check_checksums([self._file], counter.advance)
        self.tower_hash = tower_hash(self._file)
        self._data = np.memmap(path, np.uint8, "r")

    def array(self, name: str) -> Floats:
        """A tensor, float32, rows first."""
        tensor = self._file.tensors[name]
        stored = self._data[tensor.offset : tensor.offset + tensor.nbytes]
        values = decode_rows(np.array(stored), tensor.dtype, tensor.shape[-1]).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise ModelFileError(f"{self._file.path}: tensor {name} has values that are not finite.")
        return values


def tower_path(mmproj: Path, weight_type: str) -> Path:
    """The default path of a tower: beside its mmproj file."""
    match = _MMPROJ_NAME.fullmatch(mmproj.stem)
    name = match[1] if match else mmproj.stem
    return mmproj.with_name(f"vision-{name}-{weight_type}.onnx")


def _is_tower_or_its_weights(path: Path) -> bool:
    return is_tower(path.with_suffix("") if path.suffix == ".data" else path)


_TOWER = FileKind("ONNX tower that visionward exported, or its data file", _is_tower_or_its_weights)


def tower_outputs(target: Path, inputs: tuple[Path, ...], *, overwrite: bool) -> Outputs:
    """The two files of a tower, as outputs.

    Args:
        target: the ONNX file.
        inputs: files that must not be replaced.
        overwrite: whether another tower may be replaced.
    """
    return Outputs((data_path(target), target), _TOWER, inputs, overwrite)


def export_tower(
    mmproj: Path,
    target: Path | None = None,
    *,
    weight_type: str = "f16",
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Export the vision tower of an mmproj file as ONNX. Its weights go to ``<target>.data``.

    Weights of a quantized file are rounded a second time. Export from an f16 or bf16 file or from the checkpoint to
    avoid that.

    Args:
        mmproj: the mmproj file.
        target: the ONNX file; by default beside the mmproj file.
        weight_type: one of ``onnx_format.WEIGHT_TYPES``.
        overwrite: replace an existing tower.
        on_progress: called with the progress of each stage, in bytes: ``checking file``, ``ONNX tower``.

    Returns:
        The ONNX file.

    Raises:
        ModelFileError: if the mmproj file is missing, damaged or of another format.
        QuantizeError: if the type is unknown or cannot hold a weight.
        OutputError: if the files cannot be written, or would replace something that must not be replaced.
    """
    check_weight_type(weight_type)
    source = MmprojSource(mmproj, on_progress)
    target = tower_path(mmproj, weight_type) if target is None else target
    if target.suffix != ".onnx":
        raise QuantizeError(f"{target}: the name of an ONNX tower must end in .onnx.")
    outputs = tower_outputs(target, (mmproj,), overwrite=overwrite)
    return write_tower(source, outputs, weight_type=weight_type, on_progress=on_progress)


def check_weight_type(weight_type: str) -> None:
    """Check that a name is in ``onnx_format.WEIGHT_TYPES``.

    Raises:
        QuantizeError: if it is not.
    """
    if weight_type not in WEIGHT_TYPES:
        raise QuantizeError(f"unknown type of an ONNX tower {weight_type!r}; choose one of {', '.join(WEIGHT_TYPES)}.")


def approximate_bytes(plans: Iterable[PlannedTensor], weight_type: str) -> int:
    """About the bytes of the tower that is made from the tensors of an mmproj file, for checking disk space early."""
    weights = sum(math.prod(plan.shape) for plan in plans if not plan.name.startswith("cross."))
    return weights * _BYTES_PER_WEIGHT[weight_type]


def write_tower(
    source: PlannedSource | MmprojSource, outputs: Outputs, *, weight_type: str, on_progress: OnProgress | None = None
) -> Path:
    """Write a tower, weight by weight. Both files of ``tower_outputs`` are renamed to their final names at the end.

    Raises:
        CheckpointError, ModelFileError: if a weight cannot be read.
        QuantizeError: if the type cannot hold a weight.
        OutputError: if the files cannot be written.
    """
    outputs.check()
    data, target = outputs.paths
    emitter = TowerEmitter(source, weight_type)
    graph = emitter.model(data.name).SerializeToString()
    total = emitter.graph.data_bytes
    prepare_folder(target.parent, total, (data, target))
    with part_files(outputs) as (data_part, graph_part):
        counter = ProgressCounter(on_progress, "ONNX tower", total, "bytes")
        for content in emitter.graph.data():
            data_part.file.write(content.data)
            counter.advance(content.nbytes)
        found = checksums(graph, data_part.file, total)
        data_part.file.seek(0, os.SEEK_END)
        data_part.file.write(found)
        graph_part.file.write(graph)
    return target
