"""The arguments of a classification in memory that two processes share.

The memory is a file without a name, which the child inherits as a descriptor: the system frees it with the last
process that holds it, however the two end. Arguments are pickled into it. Image bytes and uint8 arrays are put beside
the pickle, so that an array is not copied in the child. There is one call at a time, so the file starts at 0 each time.

Windows has no inherited descriptors: there the pickle is sent through the pipe.
"""

import mmap
import os
import pickle
import sys
import tempfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import numpy as np
from PIL import Image

from visionward.errors import GuardProcessError, ImageError
from visionward.runtime.images.images import decoding

# Shorter ones cost less inside the pickle.
MIN_SHARED_BYTES = 1 << 14
# So that arrays begin at a multiple of a cache line.
_ALIGNMENT = 64


class SharedFile:
    """A file in memory that a child process can inherit."""

    def __init__(self) -> None:
        import fcntl  # noqa: PLC0415 - not on Windows

        descriptor = os.memfd_create("visionward") if sys.platform == "linux" else _unnamed_file()
        # In a program without standard streams it could be one of their numbers, which the child needs for its own.
        self.descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(descriptor)
        self._end = 0

    def clear(self) -> None:
        """Free the memory of the last call."""
        os.ftruncate(self.descriptor, 0)
        self._end = 0

    def append(self, data: bytes | memoryview) -> int:
        """Write behind what was written before. Returns the offset.

        Raises:
            OSError: if there is not enough memory or disk space.
        """
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        view = memoryview(data)
        self._end = offset
        while view.nbytes:
            written = os.pwrite(self.descriptor, view, self._end)
            self._end += written
            view = view[written:]
        return offset

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@dataclass(frozen=True)
class Packed:
    """Pickled arguments.

    Attributes:
        pickled: the pickle itself, or its offset and size in the shared file.
    """

    pickled: bytes | tuple[int, int]

    @classmethod
    def pack(cls, arguments: dict[str, Any], shared: SharedFile | None) -> "Packed":
        """Pickle arguments. A shared file is overwritten.

        Raises:
            ImageError: a PIL image cannot be decoded, or has several frames.
            GuardProcessError: something cannot be pickled, or there is not enough memory.
        """
        stream = BytesIO()
        try:
            if shared is not None:
                shared.clear()
            _Packer(stream, shared).dump(arguments)
            if shared is None:
                return cls(stream.getvalue())
            return cls((shared.append(stream.getbuffer()), stream.tell()))
        except OSError as error:
            raise GuardProcessError(
                f"the arguments could not be put into shared memory ({error.strerror or error})."
            ) from error
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
            if isinstance(error, ImageError):
                raise
            raise GuardProcessError(
                f"the arguments cannot be sent to the guard's process ({error}); give plain text, numbers, lists, "
                "dictionaries, paths, bytes, PIL images and arrays."
            ) from error

    def unpack(self, descriptor: int | None) -> dict[str, Any]:
        """The arguments again. Arrays are views of the shared file, valid until the next call.

        Raises:
            GuardProcessError: if a class cannot be imported in this process.
        """
        if isinstance(self.pickled, bytes):
            shared, pickled = memoryview(b""), memoryview(self.pickled)
        else:
            offset, size = self.pickled
            shared = memoryview(mmap.mmap(cast("int", descriptor), 0, access=mmap.ACCESS_READ))
            pickled = shared[offset : offset + size]
        try:
            arguments: dict[str, Any] = _Unpacker(BytesIO(pickled), shared).load()
        except Exception as error:
            raise GuardProcessError(
                f"the arguments cannot be read in the guard's process ({error}); give plain text, numbers, lists, "
                "dictionaries, paths, bytes, PIL images and arrays."
            ) from error
        return arguments


class _Packer(pickle.Pickler):
    def __init__(self, stream: BytesIO, shared: SharedFile | None) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._shared = shared

    def persistent_id(self, value: Any) -> tuple[int, int, tuple[int, ...] | None] | None:
        """Put large bytes and arrays into the shared file: offset, size and an array's shape."""
        if self._shared is None:
            return None
        if isinstance(value, bytes) and len(value) >= MIN_SHARED_BYTES:
            return self._shared.append(value), len(value), None
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.nbytes >= MIN_SHARED_BYTES:
            whole = np.ascontiguousarray(value)
            return self._shared.append(whole.reshape(-1).data), whole.nbytes, whole.shape
        return None

    def reducer_override(self, value: Any) -> Any:
        """PIL's own pickle of an image loses the format, and the frames after the current one without a word."""
        if not isinstance(value, Image.Image):
            return NotImplemented
        with decoding(value):
            if getattr(value, "is_animated", False):
                raise ImageError(
                    "a PIL image with several frames: give the file or its bytes, or a copy() of one frame"
                )
            value.load()
            palette = None
            if value.palette is not None:
                mode = "RGBA" if value.palette.mode == "RGBA" else "RGB"
                palette = (mode, bytes(value.getpalette(mode) or ()))
            return _image, (value.mode, value.size, value.tobytes(), palette, value.format, dict(value.info))


class _Unpacker(pickle.Unpickler):
    def __init__(self, stream: BytesIO, shared: memoryview) -> None:
        super().__init__(stream)
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        """What was put into the shared file."""
        offset, size, shape = pid
        data = self._shared[offset : offset + size]
        return bytes(data) if shape is None else np.frombuffer(data, np.uint8).reshape(shape)


def _image(
    mode: str,
    size: tuple[int, int],
    data: bytes,
    palette: tuple[str, bytes] | None,
    image_format: str | None,
    info: dict[str, Any],
) -> Image.Image:
    image = Image.frombytes(mode, size, data)
    if palette is not None:
        image.putpalette(palette[1], palette[0])
    image.format = image_format
    image.info.update(info)
    return image
