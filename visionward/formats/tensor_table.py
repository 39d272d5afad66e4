"""What tensors a file of a pair must have, and the check that it has them and no others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.regular_file import open_regular

VECTOR = frozenset({GGMLQuantizationType.F32})
NUMBERS = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})
# The types that ggml's CPU kernels multiply with, of those that `visionward quantize` and llama.cpp's tools write.
MATRIX = NUMBERS | {
    GGMLQuantizationType[name]
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
}


@dataclass(frozen=True)
class ExpectedTensor:
    """What a tensor must be.

    Attributes:
        shape: rows first.
        dtypes: element types that the runtime can compute with here; ggml aborts the process on others.
        required: whether a file without it is refused.
        may_be_zero: whether all of its values may be zero. Of norms and gates not one of a trained model is, and a
            layer whose norm or gate is zero adds nothing: what was cut from a file, and filled with zeros, looks so.
    """

    shape: tuple[int, ...]
    dtypes: frozenset[GGMLQuantizationType]
    required: bool = True
    may_be_zero: bool = True


def check_tensors(file: GgufHeader, table: Mapping[str, ExpectedTensor]) -> None:
    """Check names, shapes, element types, and the values of vectors.

    Raises:
        ModelFileError: if a tensor is missing, unknown, of another shape or of an impossible type, or if a vector holds
            numbers that are not finite, or zeros where none can be.
    """
    for name in file.tensors:
        if name not in table:
            raise ModelFileError(
                f"{file.path} has a tensor {name[:80]!r} that is none of the model's: convert it again."
            )
    for name, expected in table.items():
        found = file.tensors.get(name)
        if found is None:
            if expected.required:
                raise ModelFileError(f"{file.path} has no tensor {name}: convert it again.")
            continue
        if found.shape != expected.shape:
            raise ModelFileError(f"{file.path}: tensor {name} has shape {found.shape}, expected {expected.shape}.")
        if found.dtype not in expected.dtypes:
            raise ModelFileError(
                f"{file.path}: tensor {name} has type {found.dtype.name}, which cannot be computed with: "
                "convert it again."
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
                    wrong = "values that are infinite or not numbers"
                elif not table[name].may_be_zero and not values.any():
                    wrong = "nothing but zeros, which it does in no trained model"
                if wrong is not None:
                    raise ModelFileError(f"{file.path} is damaged: tensor {name} holds {wrong}. Copy it again.")
    except OSError as error:
        raise ModelFileError(f"{file.path} cannot be read: {error.strerror or error}.") from error
