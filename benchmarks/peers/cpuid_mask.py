"""Lets ONNX Runtime and OpenVINO run as on a processor without AVX-512, on one that has it.

    python -m benchmarks.peers.cpuid_mask FOLDER COMMAND ...

Their kernels have no switch: they execute cpuid. FOLDER gets copies of both packages in which each cpuid is replaced by
an invalid instruction, and a library that answers it without the bits of AVX-512, AVX-VNNI and AMX (cpuid_mask.c). The
command gets them by PYTHONPATH and LD_PRELOAD. This needs Linux on x86, gcc and binutils. Under pytest, switch off its
faulthandler (-p no:faulthandler), which takes SIGILL for itself.

Other libraries may still use AVX-512. `Avx512Watch` finds out: Linux records when a thread last had values in the
registers that only AVX-512 has (/proc/PID/task/TID/arch_status).
"""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_LIBRARY = "cpuid_mask.so"
_DESCRIPTION = "packages.txt"
_PACKAGES = ("onnxruntime", "openvino")
# Large libraries that no row uses.
_UNUSED = ("__pycache__", "*_gpu_plugin.so", "*_npu_plugin.so")
_CPUID, _INVALID = b"\x0f\xa2", b"\x06\x06"
_CLOCK_STEP_MS = 50
# Those of the C library's functions on memory, of NumPy's loops and of its products. visionward reads the features of
# the real processor and oneDNN's limit.
_SWITCHES = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def prepare(folder: Path) -> None:
    """Write the copies and the library, unless the folder has those of the same packages.

    Raises:
        RuntimeError: if the folder is of other packages, or an instruction cannot be replaced.
        subprocess.CalledProcessError: if gcc or binutils fail.
    """
    packages = _packages()
    # A package that is installed again has a new time.
    described = "".join(f"{package} {package.stat().st_mtime_ns}\n" for package in packages)
    if folder.exists():
        found = folder / _DESCRIPTION
        if not found.is_file() or found.read_text(encoding="utf-8") != described:
            raise RuntimeError(f"{folder} was not made from the packages of this environment; remove it.")
        return
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        for package in packages:
            copy = draft / package.name
            shutil.copytree(package, copy, ignore=shutil.ignore_patterns(*_UNUSED))
            if not sum(_mask(library) for library in copy.rglob("*.so*")):
                raise RuntimeError(f"the libraries in {package} contain no cpuid instruction.")
        _run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", draft / _LIBRARY, _SOURCE)
        (draft / _DESCRIPTION).write_text(described, encoding="utf-8")
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _packages() -> list[Path]:
    """The folders of the packages that are installed."""
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a process and its children use the copies."""
    path = os.pathsep.join(filter(None, (str(folder.resolve()), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "LD_PRELOAD": str(folder.resolve() / _LIBRARY), **_SWITCHES}


def is_loaded() -> bool:
    """Whether the library answers cpuid in this process."""
    return answers() is not None


def answers() -> int | None:
    """How many cpuid instructions the library has answered in this process; None if it is not loaded."""
    try:
        return ctypes.c_ulong.in_dll(ctypes.CDLL(None), "cpuid_mask_answers").value
    except ValueError:
        return None


class Avx512Watch:
    """Whether a thread of this process uses AVX-512 from now on."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def threads(self) -> list[int]:
        """The threads that have used it since.

        Raises:
            OSError: if this system does not record it.
        """
        passed = (time.monotonic() - self._start) * 1000
        found = {status.parent.name: status.read_text() for status in Path("/proc/self/task").glob("*/arch_status")}
        if not found:
            raise OSError("this system does not record the use of AVX-512 (/proc/PID/arch_status).")
        # Processors without AVX-512 have no such line, and -1 is never. The clock has steps of some milliseconds.
        ages = {thread: re.search(r"AVX512_elapsed_ms:\s*(\d+)", text) for thread, text in found.items()}
        return [int(thread) for thread, age in ages.items() if age and int(age[1]) < passed - _CLOCK_STEP_MS]


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _mask(library: Path) -> int:
    """Replace every cpuid instruction of a shared library; their number."""
    code = bytearray(library.read_bytes())
    if _CPUID not in code:
        return 0
    # Offset, address and size of each part of the file that is mapped.
    loads = re.findall(r"LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)", _run("readelf", "--segments", "--wide", library))
    segments = [tuple(int(number, 16) for number in load) for load in loads]
    # Disassembled, because the same two bytes also occur inside other instructions.
    listing = _run("objdump", "--disassemble", "--no-show-raw-insn", library)
    addresses = [int(address, 16) for address in re.findall(r"^ *(\w+):\tcpuid", listing, re.MULTILINE)]
    for address in addresses:
        offset = next(at + address - start for at, start, size in segments if start <= address < start + size)
        if code[offset : offset + 2] != _CPUID:
            raise RuntimeError(f"{library} has no cpuid at {address:#x}.")
        code[offset : offset + 2] = _INVALID
    library.write_bytes(code)
    return len(addresses)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.peers.cpuid_mask FOLDER COMMAND ...")
    folder, *command = sys.argv[1:]
    prepare(Path(folder))
    os.execvpe(command[0], command, {**os.environ, **environment(Path(folder))})  # noqa: S606


if __name__ == "__main__":
    main()
