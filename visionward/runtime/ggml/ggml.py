"""ctypes bindings of the part of ggml that visionward uses (ggml.h, ggml-alloc.h, ggml-backend.h).

Tensors, contexts, graphs, buffers and backends are plain addresses (``int``). Their owner is documented where they are
created.
"""

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_bool,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
)
from enum import IntEnum
from typing import Final

import numpy as np

from visionward.runtime.ggml.native import quick_symbol, symbol

Tensor = int


class Type(IntEnum):
    """ggml_type: the element types of the tensors that visionward creates."""

    F32 = 0
    F16 = 1
    I32 = 26


class DeviceType(IntEnum):
    """ggml_backend_dev_type."""

    CPU = 0
    GPU = 1
    IGPU = 2
    ACCEL = 3
    META = 4


class Precision(IntEnum):
    """ggml_prec."""

    DEFAULT = 0
    F32 = 10


STATUS_SUCCESS: Final = 0
MAX_SOURCES: Final = 10
MAX_NAME: Final = 64


class TensorStruct(Structure):
    """Mirror of ``struct ggml_tensor``, whose buffer has no accessor. abi.check_tensor_layout checks it."""

    _fields_ = (
        ("type", c_int),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * MAX_SOURCES),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", c_char * MAX_NAME),
        ("extra", c_void_p),
        ("padding", c_char * 8),
    )


class InitParams(Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


def struct_of(tensor: Tensor) -> TensorStruct:
    """The fields of a live tensor, in place."""
    return TensorStruct.from_address(tensor)


def row_bytes(tensor: Tensor) -> int:
    """Bytes from one row of a tensor to the next."""
    return int(struct_of(tensor).nb[1])


def address_of(array: np.ndarray) -> int:
    """Address of a C-contiguous array's data."""
    return int(array.ctypes.data)


_p = c_void_p

init = quick_symbol("ggml_init", _p, InitParams)
free = quick_symbol("ggml_free", None, _p)
tensor_overhead = quick_symbol("ggml_tensor_overhead", c_size_t)
graph_overhead_custom = quick_symbol("ggml_graph_overhead_custom", c_size_t, c_size_t, c_bool)
new_tensor = quick_symbol("ggml_new_tensor", _p, _p, c_int, c_int, POINTER(c_int64))
get_name = quick_symbol("ggml_get_name", c_char_p, _p)
set_name = quick_symbol("ggml_set_name", _p, _p, c_char_p)
get_data = quick_symbol("ggml_get_data", _p, _p)
op_desc = quick_symbol("ggml_op_desc", c_char_p, _p)
nbytes = quick_symbol("ggml_nbytes", c_size_t, _p)
nelements = quick_symbol("ggml_nelements", c_int64, _p)
row_size = quick_symbol("ggml_row_size", c_size_t, c_int, c_int64)
quantize_chunk = symbol("ggml_quantize_chunk", c_size_t, c_int, _p, _p, c_int64, c_int64, c_int64, _p)
validate_row_data = symbol("ggml_validate_row_data", c_bool, c_int, _p, c_size_t)
set_input = quick_symbol("ggml_set_input", None, _p)
set_output = quick_symbol("ggml_set_output", None, _p)

view_2d = quick_symbol("ggml_view_2d", _p, _p, _p, c_int64, c_int64, c_size_t, c_size_t)
view_3d = quick_symbol("ggml_view_3d", _p, _p, _p, c_int64, c_int64, c_int64, c_size_t, c_size_t, c_size_t)
reshape_2d = quick_symbol("ggml_reshape_2d", _p, _p, _p, c_int64, c_int64)
reshape_3d = quick_symbol("ggml_reshape_3d", _p, _p, _p, c_int64, c_int64, c_int64)
reshape_4d = quick_symbol("ggml_reshape_4d", _p, _p, _p, c_int64, c_int64, c_int64, c_int64)
permute = quick_symbol("ggml_permute", _p, _p, _p, c_int, c_int, c_int, c_int)
cont = quick_symbol("ggml_cont", _p, _p, _p)
cont_2d = quick_symbol("ggml_cont_2d", _p, _p, _p, c_int64, c_int64)
cast = quick_symbol("ggml_cast", _p, _p, _p, c_int)
cpy = quick_symbol("ggml_cpy", _p, _p, _p, _p)
repeat_4d = quick_symbol("ggml_repeat_4d", _p, _p, _p, c_int64, c_int64, c_int64, c_int64)
concat = quick_symbol("ggml_concat", _p, _p, _p, _p, c_int)
mul_mat = quick_symbol("ggml_mul_mat", _p, _p, _p, _p)
mul_mat_set_prec = quick_symbol("ggml_mul_mat_set_prec", None, _p, c_int)
add = quick_symbol("ggml_add", _p, _p, _p, _p)
mul = quick_symbol("ggml_mul", _p, _p, _p, _p)
scale = quick_symbol("ggml_scale", _p, _p, _p, c_float)
scale_bias = quick_symbol("ggml_scale_bias", _p, _p, _p, c_float, c_float)
absolute = quick_symbol("ggml_abs", _p, _p, _p)
step = quick_symbol("ggml_step", _p, _p, _p)
total = quick_symbol("ggml_sum", _p, _p, _p)
norm = quick_symbol("ggml_norm", _p, _p, _p, c_float)
rms_norm = quick_symbol("ggml_rms_norm", _p, _p, _p, c_float)
gelu_erf = quick_symbol("ggml_gelu_erf", _p, _p, _p)
swiglu_split = quick_symbol("ggml_swiglu_split", _p, _p, _p, _p)
soft_max_ext = quick_symbol("ggml_soft_max_ext", _p, _p, _p, _p, c_float, c_float)
flash_attn_ext = quick_symbol("ggml_flash_attn_ext", _p, _p, _p, _p, _p, _p, c_float, c_float, c_float)

new_graph_custom = quick_symbol("ggml_new_graph_custom", _p, _p, c_size_t, c_bool)
graph_n_nodes = quick_symbol("ggml_graph_n_nodes", c_int, _p)
graph_node = quick_symbol("ggml_graph_node", _p, _p, c_int)
build_forward_expand = quick_symbol("ggml_build_forward_expand", None, _p, _p)
gallocr_new = symbol("ggml_gallocr_new", _p, _p)
gallocr_free = symbol("ggml_gallocr_free", None, _p)
gallocr_alloc_graph = symbol("ggml_gallocr_alloc_graph", c_bool, _p, _p)

dev_count = symbol("ggml_backend_dev_count", c_size_t)
dev_get = symbol("ggml_backend_dev_get", _p, c_size_t)
dev_by_type = symbol("ggml_backend_dev_by_type", _p, c_int)
dev_name = symbol("ggml_backend_dev_name", c_char_p, _p)
dev_description = symbol("ggml_backend_dev_description", c_char_p, _p)
dev_type = symbol("ggml_backend_dev_type", c_int, _p)
dev_memory = symbol("ggml_backend_dev_memory", None, _p, POINTER(c_size_t), POINTER(c_size_t))
dev_buffer_type = symbol("ggml_backend_dev_buffer_type", _p, _p)
dev_init = symbol("ggml_backend_dev_init", _p, _p, c_char_p)
dev_backend_reg = symbol("ggml_backend_dev_backend_reg", _p, _p)
reg_name = symbol("ggml_backend_reg_name", c_char_p, _p)
reg_get_proc_address = symbol("ggml_backend_reg_get_proc_address", _p, _p, c_char_p)

backend_free = symbol("ggml_backend_free", None, _p)
backend_graph_compute = symbol("ggml_backend_graph_compute", c_int, _p, _p)
backend_supports_op = symbol("ggml_backend_supports_op", c_bool, _p, _p)
backend_get_default_buffer_type = symbol("ggml_backend_get_default_buffer_type", _p, _p)
backend_alloc_ctx_tensors = symbol("ggml_backend_alloc_ctx_tensors", _p, _p, _p)
backend_alloc_ctx_tensors_from_buft = symbol("ggml_backend_alloc_ctx_tensors_from_buft", _p, _p, _p)
backend_tensor_alloc = symbol("ggml_backend_tensor_alloc", c_int, _p, _p, _p)
backend_tensor_set = symbol("ggml_backend_tensor_set", None, _p, _p, c_size_t, c_size_t)
backend_tensor_get = symbol("ggml_backend_tensor_get", None, _p, _p, c_size_t, c_size_t)
backend_tensor_copy = symbol("ggml_backend_tensor_copy", None, _p, _p)

buft_name = symbol("ggml_backend_buft_name", c_char_p, _p)
buffer_free = symbol("ggml_backend_buffer_free", None, _p)
buffer_get_type = quick_symbol("ggml_backend_buffer_get_type", _p, _p)
buffer_get_size = quick_symbol("ggml_backend_buffer_get_size", c_size_t, _p)
cpu_buffer_from_ptr = symbol("ggml_backend_cpu_buffer_from_ptr", _p, _p, c_size_t)


def dimensions(*extents: int) -> ctypes.Array[c_int64]:
    """Extents in ggml's order (innermost first) as a C array."""
    return (c_int64 * len(extents))(*extents)
