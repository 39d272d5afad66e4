"""ggml's CPU kernels that need repacked weights. They are used only if the probe found that they work."""

from visionward.errors import NativeLibraryError
from visionward.machine.processor import read_processor
from visionward.runtime.ggml.kernel_probe import AMX, PLAIN, KernelResult, amx_is_best, kernel_files, probe_kernels
from visionward.runtime.ggml.kernel_product import buffer_types


def check_packed_kernels(threads: int) -> None:
    """Check that every kind of kernel that llama.cpp may choose works.

    Each is tried in a child process, once per library and processor.

    Raises:
        NativeLibraryError: if one crashes, hangs, gives wrong results, or cannot be tried.
    """
    for result in _probed(threads):
        if result.kernel != PLAIN and result.status not in ("works", "unused"):
            raise NativeLibraryError(
                f"the {result.kernel} kernels of this llama.cpp library cannot be used ({result.status}: "
                f"{result.detail}); use kernels=plain (--kernels plain), or another build (docs/kernels.md)."
            )


def amx_is_faster(threads: int) -> bool:
    """Whether this library and processor have AMX kernels, no packed kernels fail, and AMX is faster than plain.

    Without AMX nothing is tried.
    """
    return AMX in buffer_types() and amx_is_best(_probed(threads))


def _probed(threads: int) -> tuple[KernelResult, ...]:
    return probe_kernels(tuple(buffer_types()), kernel_files(), read_processor().identity, threads=threads)
