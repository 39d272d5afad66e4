"""A check, before the first use, that the installed library has the layout that the bindings assume."""

import functools

from visionward.errors import NativeLibraryError
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.ggml import TensorStruct, Type
from visionward.runtime.ggml.native import TESTED_VERSIONS, version


@functools.cache
def check() -> None:
    """Check the library's version and the layout of ``struct ggml_tensor``.

    Raises:
        NativeLibraryError: if visionward was not tested with either.
    """
    found = version()
    if found not in TESTED_VERSIONS:
        raise NativeLibraryError(
            f"llama-cpp-python {found} is not supported; run `pip install llama-cpp-python=={TESTED_VERSIONS[-1]}`."
        )
    check_tensor_layout()


def check_tensor_layout() -> None:
    """Compare the mirrored structure with ggml's accessors on a live tensor.

    Raises:
        NativeLibraryError: if a field has another offset.
    """
    context = ggml.init(ggml.InitParams(4 * ggml.tensor_overhead(), None, no_alloc=True))
    try:
        tensor = ggml.new_tensor(context, Type.F16, 4, ggml.dimensions(64, 3, 5, 7))
        ggml.set_name(tensor, b"layout")
        device = ggml.dev_by_type(ggml.DeviceType.CPU)
        backend = ggml.dev_init(device, None)
        buffer = ggml.backend_alloc_ctx_tensors(context, backend)
        fields = TensorStruct.from_address(tensor)
        agrees = (
            fields.type == Type.F16
            and tuple(fields.ne) == (64, 3, 5, 7)
            and tuple(fields.nb) == (2, 128, 384, 1920)
            and fields.buffer == buffer
            and fields.data == ggml.get_data(tensor)
            and fields.name == b"layout" == ggml.get_name(tensor)
            and fields.view_src is None
        )
        ggml.buffer_free(buffer)
        ggml.backend_free(backend)
    finally:
        ggml.free(context)
    if not agrees:
        raise NativeLibraryError(
            "the installed llama.cpp library has an untested tensor layout; "
            f"reinstall llama-cpp-python {TESTED_VERSIONS[-1]}."
        )
