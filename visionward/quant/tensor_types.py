"""The element types of the tensors of a file: one recipe per file type.

``convert`` uses recipes for both files, ``quantize`` for the mmproj file. A text file is quantized by llama.cpp's own
quantizer. The recipes treat the cross-attention layers as llama.cpp treats the layers of the decoder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from visionward.formats.mmproj_format import EMBEDDING_TABLES

_F32, _F16, _BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
_Q4_0, _Q4_1 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1
_Q5_0, _Q5_1 = GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1
_Q8_0, _Q4_K = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K
_Q5_K, _Q6_K = GGMLQuantizationType.Q5_K, GGMLQuantizationType.Q6_K
_IQ4_NL, _IQ4_XS = GGMLQuantizationType.IQ4_NL, GGMLQuantizationType.IQ4_XS

UNQUANTIZED = frozenset({_F32, _F16, _BF16})

# The type of a matrix whose rows are not a multiple of the block size (256 or 32 elements): llama.cpp's choices.
NEAREST: Mapping[GGMLQuantizationType, GGMLQuantizationType] = {
    _Q4_K: _Q5_0,
    _Q5_K: _Q5_1,
    _Q6_K: _Q8_0,
    _IQ4_XS: _IQ4_NL,
    _Q4_0: _F16,
    _Q4_1: _F16,
    _Q5_0: _F16,
    _Q5_1: _F16,
    _Q8_0: _F16,
    _IQ4_NL: _F16,
}

# The types that ``--tensor-type`` accepts.
TENSOR_TYPES: Mapping[str, GGMLQuantizationType] = {
    dtype.name.lower(): dtype for dtype in (_F32, _F16, _BF16, *NEAREST.keys())
}


class Layers(Enum):
    """A selection of cross-attention layers."""

    ALL = "all layers"
    FIRST = "the first eighth"
    SPREAD = "the first and the last eighth, and every third of the other layers"

    def holds(self, index: int, count: int) -> bool:
        """Whether layer ``index`` of ``count`` is selected, by llama.cpp's rules for the decoder."""
        eighth = count // 8
        if self is Layers.SPREAD:
            return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2
        return self is Layers.ALL or index < eighth


@dataclass(frozen=True)
class LargerType:
    """A larger type for a sensitive matrix in some cross-attention layers.

    Attributes:
        element_type: the type.
        layers: the layers.
        with_importance: whether it applies also with an importance matrix.
    """

    element_type: GGMLQuantizationType
    layers: Layers
    with_importance: bool = True


@dataclass(frozen=True)
class Recipe:
    """The element types of one file type.

    Tensors with one dimension (norms, gates, biases and rope factors) are f32 in every recipe: they are small, and
    llama.cpp's kernels require it.

    Attributes:
        name: name on the command line and, in upper case, in file names.
        file_type: llama.cpp's number, ``general.file_type``.
        matrix: type of the matrices of the cross-attention layers.
        tower: type of the matrices of the vision tower and the projector.
        table: type of the embedding tables of the tower.
        larger: types of matrices, by name, that differ from ``matrix`` in some layers.
    """

    name: str
    file_type: LlamaFileType
    matrix: GGMLQuantizationType
    tower: GGMLQuantizationType
    table: GGMLQuantizationType
    larger: Mapping[str, LargerType] = field(default_factory=dict)

    @property
    def quantizes(self) -> bool:
        """Whether its matrices have less than 16 bits per weight."""
        return self.matrix not in UNQUANTIZED

    @property
    def mixes(self) -> bool:
        """Whether llama.cpp gives matrices of the decoder different types, by rules of its quantizer."""
        return self.quantizes and self.matrix != _Q8_0


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", LlamaFileType.ALL_F32, matrix=_F32, tower=_F32, table=_F32),
        Recipe("f16", LlamaFileType.MOSTLY_F16, matrix=_F16, tower=_F16, table=_F16),
        Recipe("bf16", LlamaFileType.MOSTLY_BF16, matrix=_BF16, tower=_BF16, table=_BF16),
        Recipe("q8_0", LlamaFileType.MOSTLY_Q8_0, matrix=_Q8_0, tower=_Q8_0, table=_F16),
        Recipe("q6_k", LlamaFileType.MOSTLY_Q6_K, matrix=_Q6_K, tower=_Q8_0, table=_F16),
        Recipe(
            "q5_k_m",
            LlamaFileType.MOSTLY_Q5_K_M,
            matrix=_Q5_K,
            tower=_Q8_0,
            table=_F16,
            larger={"attn_v": LargerType(_Q6_K, Layers.SPREAD), "ffn_down": LargerType(_Q6_K, Layers.SPREAD)},
        ),
        Recipe(
            "q4_k_m",
            LlamaFileType.MOSTLY_Q4_K_M,
            matrix=_Q4_K,
            tower=_Q8_0,
            table=_F16,
            larger={"attn_v": LargerType(_Q6_K, Layers.SPREAD), "ffn_down": LargerType(_Q6_K, Layers.SPREAD)},
        ),
        Recipe(
            "q4_k_s",
            LlamaFileType.MOSTLY_Q4_K_S,
            matrix=_Q4_K,
            tower=_Q8_0,
            table=_F16,
            larger={"attn_v": LargerType(_Q5_K, Layers.FIRST), "ffn_down": LargerType(_Q5_K, Layers.FIRST)},
        ),
        Recipe("q4_0", LlamaFileType.MOSTLY_Q4_0, matrix=_Q4_0, tower=_Q8_0, table=_F16),
        Recipe(
            "iq4_xs",
            LlamaFileType.MOSTLY_IQ4_XS,
            matrix=_IQ4_XS,
            tower=_Q8_0,
            table=_F16,
            larger={
                "attn_v": LargerType(_Q5_K, Layers.ALL),
                "ffn_down": LargerType(_Q5_K, Layers.FIRST, with_importance=False),
            },
        ),
    )
}

_CROSS_MATRIX = re.compile(r"cross\.blk\.(\d+)\.(\w+)\.weight")


def wanted_type(
    recipe: Recipe, name: str, dimensions: int, cross_layers: int, *, importance: bool = False
) -> GGMLQuantizationType:
    """The type of a tensor in a recipe, even if its rows do not fit into blocks of this type.

    Args:
        recipe: one of ``RECIPES``.
        name: the tensor's GGUF name.
        dimensions: number of dimensions.
        cross_layers: number of cross-attention layers.
        importance: whether there is an importance matrix.
    """
    if dimensions == 1:
        return _F32
    if name in EMBEDDING_TABLES:
        return recipe.table
    if name.startswith(("v.", "mm.")):
        return recipe.tower
    if found := _CROSS_MATRIX.fullmatch(name):
        larger = recipe.larger.get(found[2])
        if larger and larger.layers.holds(int(found[1]), cross_layers) and (larger.with_importance or not importance):
            return larger.element_type
    return recipe.matrix


def fitting_type(wanted: GGMLQuantizationType, row_length: int) -> GGMLQuantizationType:
    """The type itself if rows are a multiple of its block size, else the nearest type that fits."""
    while row_length % GGML_QUANT_SIZES[wanted][0]:
        wanted = NEAREST[wanted]
    return wanted


def element_type(
    recipe: Recipe,
    name: str,
    shape: tuple[int, ...],
    cross_layers: int = 0,
    *,
    importance: bool = False,
    overrides: Sequence["TypeOverride"] = (),
) -> GGMLQuantizationType:
    """The element type of a tensor in a file.

    Args:
        recipe: one of ``RECIPES``.
        name: the tensor's GGUF name.
        shape: its shape, rows first.
        cross_layers: number of cross-attention layers.
        importance: whether there is an importance matrix.
        overrides: types by tensor name, for matrices and tables; the first match applies.
    """
    wanted = wanted_type(recipe, name, len(shape), cross_layers, importance=importance)
    if len(shape) > 1:
        wanted = next((override.element_type for override in overrides if override.matches(name)), wanted)
    return fitting_type(wanted, shape[-1])


@dataclass(frozen=True)
class TypeOverride:
    """An element type for tensors whose name matches a regular expression anywhere."""

    pattern: str
    element_type: GGMLQuantizationType

    @classmethod
    def parse(cls, text: str) -> "TypeOverride":
        """Read ``PATTERN=TYPE``.

        Raises:
            ValueError: if the text has another form, the pattern is not a regular expression, or the type is unknown.
        """
        pattern, equals, type_name = text.rpartition("=")
        if not equals or not pattern:
            raise ValueError(f"{text!r} is not PATTERN=TYPE")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        if type_name.lower() not in TENSOR_TYPES:
            raise ValueError(f"unknown element type {type_name!r}; choose one of {', '.join(TENSOR_TYPES)}")
        return cls(pattern, TENSOR_TYPES[type_name.lower()])

    def matches(self, name: str) -> bool:
        """Whether it applies to a tensor."""
        return re.search(self.pattern, name) is not None
