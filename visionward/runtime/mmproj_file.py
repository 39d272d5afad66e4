"""Reading the mmproj file: its configuration, and its weights as tensors on a device."""

import hashlib
import mmap
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from visionward.runtime import ggml
from visionward.runtime import mmproj_format as form
from visionward.runtime.device import Device
from visionward.runtime.errors import ComputeError, ModelFileError
from visionward.runtime.ggml import Tensor
from visionward.runtime.gguf_header import GgufHeader, StoredTensor, floats, integers
from visionward.runtime.mmproj_format import CrossAttentionConfig, MmprojConfig, VisionConfig
from visionward.runtime.regular_file import open_regular

UPLOAD_BYTES = 64 * 2**20

_NUMBERS = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})
_MATRIX = _NUMBERS | {
    GGMLQuantizationType[name]
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
}


def _three(value: Any) -> tuple[float, float, float]:
    red, green, blue = floats(value)
    return red, green, blue


def read_config(file: GgufHeader) -> MmprojConfig:
    """The configuration that an mmproj file spells.

    Raises:
        ModelFileError: if the file is of another kind or of an unknown format version, or a key is missing or wrong.
    """
    projector = file.get("clip.projector_type", str)
    if projector != form.PROJECTOR_TYPE:
        raise ModelFileError(f"{file.path} has projector type {projector!r}, expected {form.PROJECTOR_TYPE!r}.")
    version = file.get(form.KEY_FORMAT_VERSION, int)
    if version != form.FORMAT_VERSION:
        raise ModelFileError(
            f"{file.path} has format version {version}, this visionward reads {form.FORMAT_VERSION}: convert it again."
        )
    ratios = file.get(form.KEY_ASPECT_RATIOS, integers)
    clip = "clip.vision."
    vision = VisionConfig(
        tile_size=file.get(clip + "image_size", int),
        patch_size=file.get(clip + "patch_size", int),
        width=file.get(clip + "embedding_length", int),
        feed_forward_length=file.get(clip + "feed_forward_length", int),
        head_count=file.get(clip + "attention.head_count", int),
        local_layers=file.get(clip + "block_count", int),
        global_layers=file.get(form.KEY_GLOBAL_BLOCK_COUNT, int),
        intermediate_layers=file.get(form.KEY_INTERMEDIATE_LAYERS, integers),
        max_tiles=file.get(form.KEY_MAX_TILES, int),
        aspect_ratios=tuple(zip(ratios[::2], ratios[1::2], strict=True)) if len(ratios) % 2 == 0 else (),
        layer_norm_epsilon=file.get(clip + "attention.layer_norm_epsilon", float),
        image_mean=file.get(clip + "image_mean", _three),
        image_std=file.get(clip + "image_std", _three),
        padding_collapses=file.get(form.KEY_PADDING_COLLAPSES, bool),
    )
    cross = CrossAttentionConfig(
        layers=file.get(form.KEY_CROSS_LAYERS, integers),
        self_attention_layers=file.get(form.KEY_TEXT_BLOCK_COUNT, int),
        embedding_length=file.get(form.KEY_TEXT_EMBEDDING_LENGTH, int),
        feed_forward_length=file.get(form.KEY_TEXT_FEED_FORWARD_LENGTH, int),
        head_count=file.get(form.KEY_TEXT_HEAD_COUNT, int),
        head_count_kv=file.get(form.KEY_TEXT_HEAD_COUNT_KV, int),
        rms_epsilon=file.get(form.KEY_TEXT_RMS_EPSILON, float),
        vocab_rows=file.get(form.KEY_VOCAB_ROWS, int),
        image_token_id=file.get(form.KEY_IMAGE_TOKEN_ID, int),
    )
    config = MmprojConfig(vision, cross, file.get(form.KEY_TEXT_HASH, str))
    _check_config(file.path, config)
    return config


def _check_config(path: Path, config: MmprojConfig) -> None:
    vision, cross = config.vision, config.cross_attention
    total = cross.self_attention_layers + len(cross.layers)
    sound = {
        "tile and patch size": vision.patch_size > 0 and vision.tile_size >= vision.patch_size,
        "vision heads": vision.head_count > 0 and vision.width % vision.head_count == 0,
        "aspect ratios": bool(vision.aspect_ratios)
        and all(h > 0 and w > 0 and h * w <= vision.max_tiles for h, w in vision.aspect_ratios),
        "intermediate layers": list(vision.intermediate_layers) == sorted(set(vision.intermediate_layers))
        and all(0 <= i < vision.local_layers for i in vision.intermediate_layers),
        "image standard deviation": all(value > 0 for value in vision.image_std),
        "text heads": min(cross.head_count, cross.head_count_kv) > 0
        and cross.embedding_length % cross.head_count == 0
        and cross.head_count % cross.head_count_kv == 0,
        "cross-attention layers": list(cross.layers) == sorted(set(cross.layers))
        and all(0 < i < total - 1 for i in cross.layers),
    }
    wrong = [name for name, good in sound.items() if not good]
    if wrong:
        raise ModelFileError(f"{path} says impossible things of its {', '.join(wrong)}: convert it again.")


def _kinds(name: str, shape: tuple[int, ...]) -> frozenset[GGMLQuantizationType]:
    """Element types that a tensor may have: one dimension is added and multiplied, tables are read as numbers."""
    if len(shape) == 1:
        return _NUMBERS - {GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    return _NUMBERS if "embd" in name and name != "v.patch_embd.weight" else _MATRIX


def check_tensors(file: GgufHeader, config: MmprojConfig) -> None:
    """Check shapes and element types: ggml aborts the process where it has no kernel for a type.

    Raises:
        ModelFileError: if a tensor is missing, or one has another shape or an impossible type.
    """
    for name, shape in form.tensor_shapes(config.vision, config.cross_attention).items():
        if name not in file.tensors:
            raise ModelFileError(f"{file.path} has no tensor {name}: convert it again.")
        found = file.tensors[name]
        if found.shape != shape:
            raise ModelFileError(f"{file.path}: tensor {name} has shape {found.shape}, expected {shape}.")
        if found.kind not in _kinds(name, shape):
            raise ModelFileError(
                f"{file.path}: tensor {name} has type {found.kind.name}, which cannot be computed with: "
                "convert it again."
            )


def tower_hash(file: GgufHeader) -> str:
    """Tells towers of one shape apart, whatever the type of their matrices.

    It is over the tower's tensors of one dimension, hundreds of norms, biases and gates, which are float32 in every
    file that was made of a checkpoint.
    """
    digest = hashlib.sha256()
    with open_regular(file.path) as opened:
        for name, stored in sorted(file.tensors.items()):
            if len(stored.shape) == 1 and not name.startswith("cross."):
                opened.seek(stored.offset)
                digest.update(name.encode() + b"\0" + opened.read(stored.nbytes))
    return digest.hexdigest()


def _decoded(data: npt.NDArray[np.uint8], stored: StoredTensor) -> npt.NDArray[np.float32]:
    return np.asarray(gguf.dequantize(data, stored.kind), np.float32)


class MmprojWeights:
    """The mmproj file's tensors on a device: on a CPU the mapped file itself, elsewhere a copy.

    Args:
        file: the mmproj file.
        device: where they go.
        tower: whether the vision tower's are needed, which they are not where another engine runs it.

    Raises:
        ModelFileError: if the file is damaged or lacks a tensor, or one has another shape.
        ComputeError: if the device's memory does not suffice.
    """

    def __init__(self, file: GgufHeader, device: Device, *, tower: bool = True) -> None:
        self.file = file
        self.config = read_config(file)
        check_tensors(file, self.config)
        self._stored = {name: stored for name, stored in file.tensors.items() if tower or name.startswith("cross.")}
        with open_regular(file.path) as opened:
            self._file_map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = np.frombuffer(self._file_map, np.uint8)
        size = (len(self._stored) + 1) * ggml.tensor_overhead()
        self._context: int | None = ggml.init(ggml.InitParams(size, None, no_alloc=True))
        self._buffer: int | None = None
        self._tensors: dict[str, Tensor] = {}
        for name, stored in self._stored.items():
            extents = ggml.dimensions(*reversed(stored.shape))
            tensor = ggml.new_tensor(self._context, int(stored.kind), len(stored.shape), extents)
            ggml.set_name(tensor, name.encode())
            self._tensors[name] = tensor
        self._mapped = device.is_cpu
        if self._mapped:
            self._map()
        else:
            self._upload(device)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """A small tensor's values as float32, in the shape that ``mmproj_format.tensor_shapes`` gives."""
        stored = self._stored[name]
        return _decoded(self._bytes(stored), stored).reshape(stored.shape)

    def release_tower(self) -> None:
        """Let the system take the tower's pages where they are mapped; they are read again when they are needed.

        The decoder comes after the tower and needs room of its own.
        """
        if not self._mapped or not hasattr(mmap, "MADV_DONTNEED"):
            return
        tower = [stored for name, stored in self._stored.items() if not name.startswith("cross.")]
        first = min(stored.offset for stored in tower)
        end = max(stored.offset + stored.nbytes for stored in tower)
        page = mmap.PAGESIZE
        start = first + -first % page
        whole = (end - start) // page * page
        if whole > 0:
            self._file_map.madvise(mmap.MADV_DONTNEED, start, whole)

    def slice(self, name: str, index: int) -> npt.NDArray[np.float32]:
        """One of the slices of a tensor along its first dimension, as float32."""
        stored = self._stored[name]
        slices = self._bytes(stored).reshape(stored.shape[0], -1)
        return _decoded(slices[index], stored).reshape(stored.shape[1:])

    def _bytes(self, stored: StoredTensor) -> npt.NDArray[np.uint8]:
        return self._data[stored.offset : stored.offset + stored.nbytes]

    def gate(self, name: str) -> float:
        """The value of a scalar gate, before tanh."""
        return float(self.array(name)[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all the weights."""
        return sum(tensor.nbytes for tensor in self._stored.values())

    def close(self) -> None:
        """Free the tensors; calling it again does nothing."""
        buffer, self._buffer = self._buffer, None
        context, self._context = self._context, None
        if buffer is not None:
            ggml.buffer_free(buffer)
        if context is not None:
            ggml.free(context)

    def _map(self) -> None:
        base = ggml.address_of(self._data)
        self._buffer = ggml.cpu_buffer_from_ptr(base, self._data.nbytes)
        for name, tensor in self._tensors.items():
            ggml.backend_tensor_alloc(self._buffer, tensor, base + self._stored[name].offset)

    def _upload(self, device: Device) -> None:
        self._buffer = ggml.backend_alloc_ctx_tensors_from_buft(self._context, device.buffer_type)
        if self._buffer is None:
            raise ComputeError(
                f"{device.name} has not enough memory for {self.file.path.name} ({self.nbytes / 2**30:.1f} GiB): "
                "use a smaller quantization, or gpu_layers=0."
            )
        for name, tensor in self._tensors.items():
            data = self._bytes(self._stored[name])
            for start in range(0, data.nbytes, UPLOAD_BYTES):
                part = data[start : start + UPLOAD_BYTES]
                ggml.backend_tensor_set(tensor, ggml.address_of(part), start, part.nbytes)
