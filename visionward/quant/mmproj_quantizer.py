"""Quantize an mmproj file tensor by tensor, with ggml's own functions."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, Keys

from visionward.errors import QuantizeError
from visionward.formats import mmproj_format
from visionward.formats.gguf_file import MetadataValue, header_bytes, padded_size, write_tensor_data
from visionward.formats.gguf_header import GgufHeader, GgufTensor
from visionward.formats.imatrix_file import KEY_CHUNKS, KEY_DATASET, KEY_ENTRIES, KEY_FILE, ImatrixSource
from visionward.formats.mmproj_file import expected_tensor, read_mmproj_config
from visionward.formats.regular_file import open_regular
from visionward.quant.tensor_types import UNQUANTIZED, Recipe, TypeOverride, element_type, fitting_type
from visionward.runtime.ggml.row_encoding import decode_rows, encode_rows, row_nbytes, rows_at_once


@dataclass(frozen=True, eq=False)
class _Target:
    """A tensor of the new file."""

    source: GgufTensor
    element_type: GGMLQuantizationType

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * row_nbytes(self.element_type, self.shape[-1])


def supports(tensor: GgufTensor, override: TypeOverride) -> bool:
    """Whether the runtime can load a tensor of an mmproj file with the type of an override."""
    given = fitting_type(override.element_type, tensor.shape[-1])
    return given in expected_tensor(tensor.name, tensor.shape).dtypes


class MmprojQuantizer:
    """Quantizes one mmproj file.

    Args:
        source: the file.
        recipe: the types of its tensors.
        overrides: types by tensor name. One that the runtime cannot load a tensor with is ignored.
        importance: importance of each column by tensor name.
        imatrix: origin of the importance, for the keys of the new file; None without an importance matrix.
        threads: number of threads.

    Raises:
        ModelFileError: if the file is not an mmproj file of visionward.
    """

    def __init__(
        self,
        source: GgufHeader,
        recipe: Recipe,
        *,
        overrides: Sequence[TypeOverride],
        importance: Mapping[str, npt.NDArray[np.float32]],
        imatrix: ImatrixSource | None,
        threads: int,
    ) -> None:
        self._source = source
        self._recipe = recipe
        self._importance = importance
        self._imatrix = imatrix
        self._threads = threads
        layers = len(read_mmproj_config(source).cross_attention.layers)
        self._targets = [
            _Target(
                stored,
                element_type(
                    recipe,
                    stored.name,
                    stored.shape,
                    layers,
                    importance=imatrix is not None,
                    overrides=[override for override in overrides if supports(stored, override)],
                ),
            )
            for stored in source.tensors.values()
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the new file's tensors."""
        return padded_size(self._targets)

    def write(self, file: BinaryIO, on_tensor: Callable[[str], None]) -> None:
        """Write the new file.

        Args:
            file: the file, at its beginning.
            on_tensor: called with the name of every tensor when it begins.

        Raises:
            QuantizeError: if values are not finite, or too large for their type.
        """
        file.write(header_bytes(mmproj_format.MMPROJ_ARCHITECTURE, self._metadata(), self._targets))

        def chunks(target: _Target) -> Iterator[npt.NDArray[np.uint8]]:
            on_tensor(target.name)
            return self._encoded(target)

        write_tensor_data(file, self._targets, chunks)

    def _metadata(self) -> dict[str, MetadataValue]:
        keys: dict[str, MetadataValue] = {
            key: self._source.value(key)
            for key in self._source.keys
            if key not in (Keys.General.ARCHITECTURE, KEY_FILE, KEY_DATASET, KEY_ENTRIES, KEY_CHUNKS)
        }
        keys[Keys.General.FILE_TYPE] = int(self._recipe.file_type)
        keys[Keys.General.QUANTIZATION_VERSION] = int(GGML_QUANT_VERSION)
        if self._imatrix is not None:
            keys[KEY_FILE] = self._imatrix.file
            keys[KEY_DATASET] = self._imatrix.dataset
            keys[KEY_ENTRIES] = self._imatrix.entries
            keys[KEY_CHUNKS] = self._imatrix.chunks
        return keys

    def _encoded(self, target: _Target) -> Iterator[npt.NDArray[np.uint8]]:
        """The new bytes of a tensor, some rows at a time."""
        source, length = target.source, target.shape[-1]
        importance = None if target.element_type in UNQUANTIZED else self._importance.get(target.name)
        step = rows_at_once(length) * row_nbytes(source.dtype, length)
        with open_regular(self._source.path) as file:
            file.seek(source.offset)
            for start in range(0, source.nbytes, step):
                stored = np.fromfile(file, np.uint8, min(step, source.nbytes - start))
                values = decode_rows(stored, source.dtype, length)
                if not np.isfinite(values).all():
                    raise QuantizeError(f"{self._source.path}: {target.name} has values that are not finite.")
                if target.element_type == source.dtype:
                    yield stored
                    continue
                try:
                    yield encode_rows(values, target.element_type, importance, threads=self._threads)
                except QuantizeError as error:
                    raise QuantizeError(f"{self._source.path}: {target.name}: {error}.") from error
