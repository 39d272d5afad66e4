"""ggml's CPU kernels that want weights in forms of their own: used only where the probe saw them work."""

from visionward.errors import NativeLibraryError
from visionward.machine.processor import read_processor
from visionward.runtime.ggml.kernel_probe import kernel_files, probe_kernels
from visionward.runtime.ggml.kernel_product import PLAIN, buffer_types


def check_packed_kernels(threads: int) -> None:
    """See that no kind of kernel that llama.cpp may choose is broken.

    Each is tried in a child process, once for a library and a processor.

    Raises:
        NativeLibraryError: if one crashes, hangs or is wrong here, or cannot be tried.
    """
    results = probe_kernels(tuple(buffer_types()), kernel_files(), read_processor().identity, threads=threads)
    for result in results:
        if result.kernel != PLAIN and result.status not in ("works", "unused"):
            raise NativeLibraryError(
                f"the {result.kernel} kernels of this llama.cpp library cannot be used ({result.status}: "
                f"{result.detail}): take the plain ones, or another build (docs/kernels.md)."
            )
