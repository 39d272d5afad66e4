"""Which element type each tensor of a GGUF file gets: one recipe for each file type, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

# Tables that the vision tower adds to its hidden state: never multiplied, so nothing is won by quantizing them.
EMBEDDING_TABLES = frozenset(
    {
        "v.position_embd.weight",
        "v.tile_position_embd.weight",
        "v.pre_tile_embd.weight",
        "v.post_tile_embd.weight",
    }
)


@dataclass(frozen=True)
class Recipe:
    """The element types of one file type.

    Norms, gates, biases and rope factors (everything with one dimension) are f32 in every recipe: they are small, and
    llama.cpp's kernels want them so.

    Attributes:
        name: as it stands in the command line and, upper case, in file names.
        file_type: llama.cpp's number, ``general.file_type``.
        matrix: type of the matrices.
        table: type of the tower's embedding tables.
        ragged: type of matrices whose rows are no whole number of ``matrix`` blocks.
    """

    name: str
    file_type: LlamaFileType
    matrix: GGMLQuantizationType
    table: GGMLQuantizationType
    ragged: GGMLQuantizationType


_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_BF16, _Q8_0 = GGMLQuantizationType.BF16, GGMLQuantizationType.Q8_0

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("f32", LlamaFileType.ALL_F32, matrix=_F32, table=_F32, ragged=_F32),
        Recipe("f16", LlamaFileType.MOSTLY_F16, matrix=_F16, table=_F16, ragged=_F16),
        Recipe("bf16", LlamaFileType.MOSTLY_BF16, matrix=_BF16, table=_BF16, ragged=_BF16),
        Recipe("q8_0", LlamaFileType.MOSTLY_Q8_0, matrix=_Q8_0, table=_F16, ragged=_F16),
    )
}


def element_type(recipe: Recipe, name: str, shape: tuple[int, ...]) -> GGMLQuantizationType:
    """The element type that a recipe gives to a tensor.

    Args:
        recipe: one of ``RECIPES``.
        name: the tensor's GGUF name.
        shape: its shape, rows first.
    """
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if name in EMBEDDING_TABLES:
        return recipe.table
    block_size, _ = GGML_QUANT_SIZES[recipe.matrix]
    return recipe.ragged if shape[-1] % block_size else recipe.matrix
