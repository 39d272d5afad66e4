"""What quantized files are compared with: ggml's own functions, called here without visionward in between."""

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

FILE_KINDS = ("q4_0", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "iq4_xs", "f16", "bf16")


def ggml_encode(values: np.ndarray, kind: GGMLQuantizationType, importance: np.ndarray | None = None) -> bytes:
    """All rows in one call, on one thread."""
    quantize = llama_cpp.llama_cpp._lib.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    values = np.ascontiguousarray(values, np.float32)
    rows, columns = values.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty(rows * columns // block * size, np.uint8)
    columns_matter = None if importance is None else np.ascontiguousarray(importance, np.float32).ctypes.data
    assert quantize(int(kind), values.ctypes.data, out.ctypes.data, 0, rows, columns, columns_matter) == out.nbytes
    return out.tobytes()


def tensors(path: Path) -> dict[str, tuple[GGMLQuantizationType, np.ndarray]]:
    """Name to type and stored bytes, rows first."""
    return {tensor.name: (tensor.tensor_type, np.array(tensor.data)) for tensor in GGUFReader(path).tensors}


def values(path: Path) -> dict[str, np.ndarray]:
    """Name to float32 values."""
    return {name: gguf.dequantize(data, kind).astype(np.float32) for name, (kind, data) in tensors(path).items()}


def keys(path: Path) -> dict[str, object]:
    """Every key's value, but for the digests, which are other ones in every file."""
    return {
        name: field.contents()
        for name, field in GGUFReader(path).fields.items()
        if not name.startswith("GGUF.") and not name.endswith("_sha256")
    }


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
