"""The CPU kernels of the installed library: what the probe found, and whether packed weights may be used."""

from visionward.errors import NativeLibraryError
from visionward.machine.processor import read_processor
from visionward.runtime.ggml.kernel_probe import AMX, PLAIN, KernelResult, amx_types, kernel_files, probe_kernels
from visionward.runtime.ggml.kernel_product import buffer_types


def check_packed_kernels(threads: int) -> None:
    """Check that every kind of kernel that llama.cpp may choose works.

    Each is tried in a child process, once per library and processor.

    Raises:
        NativeLibraryError: if one crashes, hangs, gives wrong results, or cannot be tried.
    """
    for result in probe_library(threads):
        if result.kernel != PLAIN and result.fails:
            raise NativeLibraryError(
                f"the {result.kernel} kernels of this llama.cpp library cannot be used ({result.status}: "
                f"{result.detail}); use kernels=plain (--kernels plain), or another build (docs/kernels.md)."
            )


def types_for_amx(threads: int) -> frozenset[str]:
    """The weight types for which this library has AMX kernels that are right and faster than the plain ones.

    Nothing is tried if the library or the processor has no AMX.
    """
    return amx_types(probe_library(threads)) if AMX in buffer_types() else frozenset()


def probe_library(threads: int, *, fresh: bool = False) -> tuple[KernelResult, ...]:
    """What the probe found, or finds, about every kind of kernel of this library on this processor.

    Args:
        threads: CPU threads.
        fresh: try them again even if that was done before.
    """
    processor = read_processor().identity
    return probe_kernels(tuple(buffer_types()), kernel_files(), processor, threads=threads, fresh=fresh)
