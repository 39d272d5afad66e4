"""Check that a file of a pair has the tensors that it must have, and no unknown ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.regular_file import open_regular

VECTOR = frozenset({GGMLQuantizationType.F32})
NUMBERS = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})
# Types that ggml's CPU kernels can multiply, of those that `visionward quantize` and llama.cpp's tools write.
MATRIX = NUMBERS | {
    GGMLQuantizationType[name]
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
}


@dataclass(frozen=True)
class ExpectedTensor:
    """Requirements on a tensor.

    Attributes:
        shape: rows first.
        dtypes: element types that the runtime supports here. ggml aborts the process on others.
        required: whether the tensor must exist.
        may_be_zero: whether all values may be zero. No norm or gate of a trained model is zero, and a layer with such
            a norm or gate adds nothing. Part of a file that was replaced by zeros looks like this.
    """

    shape: tuple[int, ...]
    dtypes: frozenset[GGMLQuantizationType]
    required: bool = True
    may_be_zero: bool = True


def check_tensors(file: GgufHeader, table: Mapping[str, ExpectedTensor]) -> None:
    """Check names, shapes, element types, and the values of vectors.

    Raises:
        ModelFileError: if a tensor is missing, unknown, or has a wrong shape or an unsupported type, or if a vector has
            values that are not finite, or only zeros where that is not allowed.
    """
    for name in file.tensors:
        if name not in table:
            raise ModelFileError(f"{file.path} has an unknown tensor {name[:80]!r}: convert the model again.")
    for name, expected in table.items():
        found = file.tensors.get(name)
        if found is None:
            if expected.required:
                raise ModelFileError(f"{file.path} has no tensor {name}: convert the model again.")
            continue
        if found.shape != expected.shape:
            raise ModelFileError(f"{file.path}: tensor {name} has shape {found.shape}, expected {expected.shape}.")
        if found.dtype not in expected.dtypes:
            raise ModelFileError(
                f"{file.path}: tensor {name} has the unsupported type {found.dtype.name}: convert the model again."
            )
    _check_vectors(file, table)


def _check_vectors(file: GgufHeader, table: Mapping[str, ExpectedTensor]) -> None:
    try:
        with open_regular(file.path) as opened:
            for name, stored in file.tensors.items():
                if len(stored.shape) != 1:
                    continue
                opened.seek(stored.offset)
                values = np.frombuffer(opened.read(stored.nbytes), "<f4")
                wrong = None
                if not np.isfinite(values).all():
                    wrong = "has values that are not finite"
                elif not table[name].may_be_zero and not values.any():
                    wrong = "has only zeros, unlike in any trained model"
                if wrong is not None:
                    raise ModelFileError(f"{file.path} is damaged: tensor {name} {wrong}. Copy it again.")
    except OSError as error:
        raise ModelFileError(f"{file.path} cannot be read: {error.strerror or error}.") from error
