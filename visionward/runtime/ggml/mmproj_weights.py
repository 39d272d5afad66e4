"""The mmproj file's weights as tensors on a device."""

import mmap

import gguf
import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError
from visionward.formats.gguf_header import GgufHeader, GgufTensor
from visionward.formats.mmproj_format import MmprojConfig
from visionward.formats.regular_file import open_regular
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.ggml import Tensor

UPLOAD_BYTES = 64 * 2**20


def _decoded(data: npt.NDArray[np.uint8], stored: GgufTensor) -> npt.NDArray[np.float32]:
    return np.asarray(gguf.dequantize(data, stored.dtype), np.float32)


class MmprojWeights:
    """The mmproj file's tensors on a device: the mapped file itself on a CPU, a copy elsewhere.

    Args:
        file: the mmproj file, with checked tensors.
        config: its configuration.
        device: where the tensors go.
        tower: whether to load the vision tower's tensors; not needed if it runs elsewhere.
        cross: whether to load the tensors of the cross-attention layers.

    Raises:
        ComputeError: if the device's memory does not suffice.
    """

    def __init__(
        self, file: GgufHeader, config: MmprojConfig, device: Device, *, tower: bool = True, cross: bool = True
    ) -> None:
        self.file = file
        self.config = config
        self._stored = {
            name: stored for name, stored in file.tensors.items() if (cross if name.startswith("cross.") else tower)
        }
        with open_regular(file.path) as opened:
            self._file_map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = np.frombuffer(self._file_map, np.uint8)
        size = (len(self._stored) + 1) * ggml.tensor_overhead()
        self._context: int | None = ggml.init(ggml.InitParams(size, None, no_alloc=True))
        self._buffer: int | None = None
        self._tensors: dict[str, Tensor] = {}
        for name, stored in self._stored.items():
            extents = ggml.dimensions(*reversed(stored.shape))
            tensor = ggml.new_tensor(self._context, int(stored.dtype), len(stored.shape), extents)
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
        """Let the system reclaim the tower's mapped pages, which are read again when needed.

        The decoder runs after the tower, and needs memory too.
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
        """One slice of a tensor along its first dimension, as float32."""
        stored = self._stored[name]
        slices = self._bytes(stored).reshape(stored.shape[0], -1)
        return _decoded(slices[index], stored).reshape(stored.shape[1:])

    def _bytes(self, stored: GgufTensor) -> npt.NDArray[np.uint8]:
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
                f"{device.name} does not have enough memory for {self.file.path.name} ({self.nbytes / 2**30:.1f} GiB); "
                "use a smaller quantization, or gpu_layers=0 (--gpu-layers 0)."
            )
        for name, tensor in self._tensors.items():
            data = self._bytes(self._stored[name])
            for start in range(0, data.nbytes, UPLOAD_BYTES):
                part = data[start : start + UPLOAD_BYTES]
                ggml.backend_tensor_set(tensor, ggml.address_of(part), start, part.nbytes)
