"""What a contestant may use of the processor, and what it says that it uses.

A row of the comparison allows an instruction set, and everything in the row gets the same: Transformers through the
switches of oneDNN, MKL and ATen, llama.cpp through how it was compiled; and the system refuses AMX to all of them
(amx.py). What has no switch for the rest is reported as unrestricted.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.peers import amx

# What restricts libraries; against_peers lets none of it in from outside.
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_PLAIN = frozenset({"SSE3", "SSSE3", "AVX", "AVX2", "F16C", "FMA", "BMI2"})
ONEDNN_KERNEL = r"exec,cpu,\w+,([^,]*)"
_MKL_BOOST = "Intel(R) AVX-512) with support of Intel(R) Deep Learning Boost (Intel(R) DL Boost)"
# What llama.cpp lists beside instruction sets.
_NO_INSTRUCTIONS = frozenset({"LLAMAFILE", "OPENMP", "REPACK", "ACCELERATE", "BLAS", "KLEIDIAI"})


@dataclass(frozen=True)
class Limit:
    """What a row allows.

    Attributes:
        environment: switches of the libraries; they must be set before a library is loaded.
        isa: how oneDNN and MKL describe it; None where everything is allowed.
        kernels: what names of oneDNN's kernels and of its instruction sets must not contain.
        features: what llama.cpp's system info may list; None for everything.
    """

    environment: Mapping[str, str]
    isa: tuple[str, str] | None
    kernels: str | None
    features: frozenset[str] | None


def _limit(names: tuple[str, str, str], isa: tuple[str, str], kernels: str, features: Iterable[str]) -> Limit:
    switches = dict(zip((SWITCHES[0], *SWITCHES[2:]), names, strict=True))
    return Limit(switches, isa, kernels, _PLAIN | frozenset(features))


LIMITS = {
    "default": Limit({}, None, None, None),
    "AVX512_CORE_BF16": _limit(
        ("AVX512_CORE_BF16", "AVX512_E3", "avx512"),
        ("Intel AVX-512 with Intel DL Boost and bfloat16 support", f"{_MKL_BOOST} and bfloat16"),
        "amx|avx10|fp16",
        ("AVX512", "AVX512_VNNI", "AVX512_BF16"),
    ),
    "AVX512_CORE_VNNI": _limit(
        ("AVX512_CORE_VNNI", "AVX512_E1", "avx512"),
        ("Intel AVX-512 with Intel DL Boost", _MKL_BOOST),
        "amx|avx10|fp16|core_bf16",
        ("AVX512", "AVX512_VNNI"),
    ),
    "AVX2": _limit(
        ("AVX2", "AVX2", "avx2"),
        ("Intel AVX2", "Intel(R) AVX2)"),
        "amx|avx10|avx512|vnni",
        (),
    ),
}  # fmt: skip


class LimitError(RuntimeError):
    """A contestant uses more than its row allows, or cannot show that it does not."""


def apply(limit: str, threads: int) -> None:
    """Set the environment of this process, and do without AMX where that is not allowed.

    Before any library is loaded that reads it or asks for AMX.

    Raises:
        RuntimeError: if the system cannot refuse AMX.
    """
    if LIMITS[limit].isa is not None:
        amx.deny()
    for name in SWITCHES:
        os.environ.pop(name, None)
    os.environ.update(LIMITS[limit].environment)
    for name in _THREADS:
        os.environ[name] = str(threads)


def check_llama(limit: str, system_info: str) -> str:
    """Check what llama.cpp was compiled for; its features.

    Raises:
        LimitError: if the library uses more than is allowed.
    """
    found = set(re.findall(r"(\w+) = 1\b", system_info))
    allowed = LIMITS[limit].features
    if allowed is not None and (excess := found - allowed - _NO_INSTRUCTIONS):
        raise LimitError(
            f"this llama.cpp library uses {', '.join(sorted(excess))}, which {limit} does not allow: "
            "choose a Python whose llama-cpp-python was compiled for less (--python)."
        )
    return " ".join(sorted(found))


def check_onednn(limit: str, verbose: str) -> str:
    """Check what oneDNN wrote with ONEDNN_VERBOSE=1; the instruction set that it names, or nothing.

    Raises:
        LimitError: if it names another one than is allowed, or a kernel beyond it.
    """
    found = re.search(r"info,cpu,isa:(.+)", verbose)
    isa = found[1].strip() if found else ""
    allowed = LIMITS[limit]
    if isa and allowed.isa is not None and isa != allowed.isa[0]:
        raise LimitError(f"oneDNN uses {isa}, and {limit} was asked for.")
    check_kernels(limit, set(re.findall(ONEDNN_KERNEL, verbose)))
    return isa


def check_kernels(limit: str, kernels: Iterable[str]) -> None:
    """Check the names of kernels.

    Raises:
        LimitError: if one is beyond what is allowed.
    """
    allowed = LIMITS[limit].kernels
    excess = [kernel for kernel in sorted(kernels) if allowed and re.search(allowed, kernel)]
    if excess:
        raise LimitError(f"the kernels {', '.join(excess)} run, which {limit} does not allow.")


def check_mkl(limit: str, verbose: str) -> str:
    """Check what MKL wrote with its verbose mode; the instruction set that it names, or nothing.

    Raises:
        LimitError: if it names another one than is allowed.
    """
    found = re.search(r"Intel\(R\) 64 architecture (.+?),? (?:enabled processors|Lnx)", verbose)
    isa = found[1].strip() if found else ""
    allowed = LIMITS[limit].isa
    if isa and allowed is not None and not isa.endswith(allowed[1]):
        raise LimitError(f"MKL uses {isa}, and {limit} was asked for.")
    return isa
