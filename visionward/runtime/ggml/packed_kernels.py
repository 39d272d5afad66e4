"""ggml's CPU kernels that need repacked weights. They are used only if the probe found that they work."""

from visionward.errors import NativeLibraryError
from visionward.machine.processor import read_processor
from visionward.runtime.ggml.kernel_probe import kernel_files, probe_kernels
from visionward.runtime.ggml.kernel_product import PLAIN, buffer_types


def check_packed_kernels(threads: int) -> None:
    """Check that every kind of kernel that llama.cpp may choose works.

    Each is tried in a child process, once per library and processor.

    Raises:
        NativeLibraryError: if one crashes, hangs, gives wrong results, or cannot be tried.
    """
    results = probe_kernels(tuple(buffer_types()), kernel_files(), read_processor().identity, threads=threads)
    for result in results:
        if result.kernel != PLAIN and result.status not in ("works", "unused"):
            raise NativeLibraryError(
                f"the {result.kernel} kernels of this llama.cpp library cannot be used ({result.status}: "
                f"{result.detail}); use kernels=plain (--kernels plain), or another build (docs/kernels.md)."
            )
