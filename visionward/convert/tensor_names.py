"""Names and shapes of all tensors in the checkpoint, and their names in the two GGUF files.

The checkpoint's names are those on the hub (``language_model.model.layers.0...``), which save_pretrained of
Transformers writes too. ``canonical_name`` maps the names of modules in memory to them.
"""

from collections.abc import Iterable, Mapping

from visionward.convert.model_config import ModelConfig
from visionward.errors import CheckpointError
from visionward.formats.mmproj_format import CrossAttentionConfig, VisionConfig, tensor_shapes
from visionward.formats.safetensors_reader import CheckpointTensor

# Prefix of the modules in memory (Transformers 4.52 and later) -> prefix on the hub.
_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.vision_model.": "vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}

# Buffers that old versions of Transformers saved. They follow from the configuration.
_HARMLESS_SUFFIXES = ("rotary_emb.inv_freq", "position_ids")

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"

_TEXT = {
    EMBEDDING: "token_embd.weight",
    "language_model.model.norm.weight": "output_norm.weight",
    HEAD: "output.weight",
}

_TEXT_LAYER = "language_model.model.layers.{}."

_SELF_ATTENTION_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}

_CROSS_ATTENTION_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "cross_attn.q_proj.weight": "attn_q.weight",
    "cross_attn.k_proj.weight": "attn_k.weight",
    "cross_attn.v_proj.weight": "attn_v.weight",
    "cross_attn.o_proj.weight": "attn_output.weight",
    "cross_attn.q_norm.weight": "attn_q_norm.weight",
    "cross_attn.k_norm.weight": "attn_k_norm.weight",
    "cross_attn_attn_gate": "gate_attn",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "cross_attn_mlp_gate": "gate_ffn",
}

_VISION = {
    "vision_model.patch_embedding.weight": "v.patch_embd.weight",
    "vision_model.class_embedding": "v.class_embd",
    "vision_model.gated_positional_embedding.embedding": "v.position_embd.weight",
    "vision_model.gated_positional_embedding.gate": "v.position_embd.gate",
    "vision_model.gated_positional_embedding.tile_embedding.weight": "v.tile_position_embd.weight",
    "vision_model.pre_tile_positional_embedding.embedding.weight": "v.pre_tile_embd.weight",
    "vision_model.pre_tile_positional_embedding.gate": "v.pre_tile_embd.gate",
    "vision_model.post_tile_positional_embedding.embedding.weight": "v.post_tile_embd.weight",
    "vision_model.post_tile_positional_embedding.gate": "v.post_tile_embd.gate",
    "vision_model.layernorm_pre.weight": "v.pre_ln.weight",
    "vision_model.layernorm_pre.bias": "v.pre_ln.bias",
    "vision_model.layernorm_post.weight": "v.post_ln.weight",
    "vision_model.layernorm_post.bias": "v.post_ln.bias",
    "multi_modal_projector.weight": "mm.0.weight",
    "multi_modal_projector.bias": "mm.0.bias",
}

_LOCAL_LAYER = "vision_model.transformer.layers.{}."
_GLOBAL_LAYER = "vision_model.global_transformer.layers.{}."

_VISION_LAYER = {
    "input_layernorm.weight": "ln1.weight",
    "input_layernorm.bias": "ln1.bias",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_out.weight",
    "post_attention_layernorm.weight": "ln2.weight",
    "post_attention_layernorm.bias": "ln2.bias",
    "mlp.fc1.weight": "ffn_up.weight",
    "mlp.fc1.bias": "ffn_up.bias",
    "mlp.fc2.weight": "ffn_down.weight",
    "mlp.fc2.bias": "ffn_down.bias",
}

_GLOBAL_GATES = {"gate_attn": "gate_attn", "gate_ffn": "gate_ffn"}

# Names in an error message, per problem.
_MAX_NAMES = 5


def canonical_name(name: str) -> str:
    """A tensor's name on the hub, whichever of the two layouts the checkpoint uses."""
    for prefix, canonical in _PREFIXES.items():
        if name.startswith(prefix):
            return canonical + name.removeprefix(prefix)
    return name


def _layer(source: str, target: str, names: Mapping[str, str]) -> dict[str, str]:
    return {source + name: target + gguf_name for name, gguf_name in names.items()}


def text_names(config: ModelConfig) -> dict[str, str]:
    """Checkpoint name -> name in the text file, in file order."""
    names = dict(_TEXT)
    if config.text.tied:
        del names[HEAD]
    for i, layer in enumerate(config.self_attention_layers):
        names |= _layer(_TEXT_LAYER.format(layer), f"blk.{i}.", _SELF_ATTENTION_LAYER)
    return names


def mmproj_names(config: ModelConfig) -> dict[str, str]:
    """Checkpoint name -> name in the mmproj file."""
    names = dict(_VISION)
    for i in range(config.vision.local_layers):
        names |= _layer(_LOCAL_LAYER.format(i), f"v.blk.{i}.", _VISION_LAYER)
    for i in range(config.vision.global_layers):
        names |= _layer(_GLOBAL_LAYER.format(i), f"v.global.blk.{i}.", _VISION_LAYER | _GLOBAL_GATES)
    for i, layer in enumerate(config.cross_attention.layers):
        names |= _layer(_TEXT_LAYER.format(layer), f"cross.blk.{i}.", _CROSS_ATTENTION_LAYER)
    return names


def _self_layer_shapes(layer: int, cross: CrossAttentionConfig) -> dict[str, tuple[int, ...]]:
    width, inner, kv_width = cross.embedding_length, cross.feed_forward_length, cross.head_count_kv * cross.head_width
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (kv_width, width),
        "self_attn.v_proj.weight": (kv_width, width),
        "self_attn.o_proj.weight": (width, width),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }
    return {_TEXT_LAYER.format(layer) + name: shape for name, shape in shapes.items()}


def _source_shape(gguf_name: str, shape: tuple[int, ...], vision: VisionConfig) -> tuple[int, ...]:
    """The shape in the checkpoint of a tensor of the mmproj file, which has the same elements."""
    if gguf_name == "v.patch_embd.weight":
        return (vision.width, 3, vision.patch_size, vision.patch_size)
    if gguf_name in ("v.tile_position_embd.weight", "v.pre_tile_embd.weight", "v.post_tile_embd.weight"):
        rows, *rest = shape
        flat = 1
        for n in rest:
            flat *= n
        return (rows, flat)
    return shape


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Checkpoint name -> shape of every tensor that follows from the configuration."""
    width = config.cross_attention.embedding_length
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (config.embedding_rows, width),
        "language_model.model.norm.weight": (width,),
    }
    if not config.text.tied:
        shapes[HEAD] = (config.cross_attention.vocab_rows, width)
    for layer in config.self_attention_layers:
        shapes |= _self_layer_shapes(layer, config.cross_attention)
    in_file = tensor_shapes(config.vision, config.cross_attention)
    for name, gguf_name in mmproj_names(config).items():
        shapes[name] = _source_shape(gguf_name, in_file[gguf_name], config.vision)
    return shapes


def _listed(problem: str, items: Iterable[str]) -> list[str]:
    names = sorted(items)
    if not names:
        return []
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return [f"{len(names)} {problem} ({', '.join(names[:_MAX_NAMES])}{more})"]


def checked_tensors(
    where: str, tensors: Mapping[str, CheckpointTensor], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, CheckpointTensor]:
    """The tensors of a checkpoint by their names on the hub, compared with the expected ones.

    Args:
        where: the checkpoint, for error messages.
        tensors: the tensors by their stored names, in either layout.
        expected: name on the hub -> shape.

    Raises:
        CheckpointError: if tensors are missing, unknown, or have another shape.
    """
    found: dict[str, CheckpointTensor] = {}
    for name, tensor in tensors.items():
        canonical = canonical_name(name)
        if canonical.endswith(_HARMLESS_SUFFIXES):
            continue
        if canonical in found:
            raise CheckpointError(f"{where}: the tensors {found[canonical].name!r} and {name!r} are the same parameter")
        found[canonical] = tensor
    problems = _listed("missing", expected.keys() - found.keys())
    problems += _listed("unknown", found.keys() - expected.keys())
    problems += _listed(
        "with a shape that contradicts config.json",
        (
            f"{name} {list(found[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ),
    )
    if problems:
        raise CheckpointError(f"{where}: tensor mismatch: {', '.join(problems)}")
    return found
