"""Transformers 4.53.3's Mllama, corrected to what Meta's own code computes.

One thing is off in 4.53.3 (rule 6 of the design notes): a text row that sees no image must pass a cross-attention layer
unchanged. Transformers multiplies the layer's MLP output by the row mask and forgets the attention output. The row's
attention mask was set to "everything visible" to keep the softmax finite, so such a row then reads the whole picture.
It shows as soon as anything stands in front of `<|image|>`, and a begin-of-text token always does.

`attn_implementation="eager"` is the one to compare with. The `sdpa` path takes `is_causal=True` whenever a layer gets
no mask, and that would be wrong for cross-attention; with the masks that a processor makes both agree to rounding.
"""

from typing import Any

import torch
from transformers import MllamaForConditionalGeneration
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer


def _remember_rows(layer: torch.nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep the row mask of this call where the layer's attention finds it."""
    layer.cross_attn.visionward_rows = kwargs.get("full_text_row_masked_out_mask")


def _mask_rows(
    attention: torch.nn.Module, _args: tuple[Any, ...], output: tuple[torch.Tensor, Any, Any]
) -> tuple[torch.Tensor, Any, Any]:
    """Zero the attention output of rows that see no image."""
    rows, attention.visionward_rows = attention.visionward_rows, None
    if rows is None:
        return output
    return (output[0] * rows[:, 0], *output[1:])


def correct_rule_6(model: MllamaForConditionalGeneration) -> MllamaForConditionalGeneration:
    """Let text rows that see no image pass the cross-attention layers of this model unchanged.

    Works through hooks on this model's layers, so other models and the library stay as they are. Calling it twice on
    one model does no harm.

    Args:
        model: A model of Transformers 4.53.3.

    Returns:
        The same model.
    """
    for layer in model.model.language_model.layers:
        if isinstance(layer, MllamaCrossAttentionDecoderLayer) and not hasattr(layer.cross_attn, "visionward_rows"):
            layer.cross_attn.visionward_rows = None
            layer.register_forward_pre_hook(_remember_rows, with_kwargs=True)
            layer.cross_attn.register_forward_hook(_mask_rows)
    return model
