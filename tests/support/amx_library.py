"""llama.cpp with ggml's AMX kernels, and AMX in software for processors that have none.

As a program it builds both into the cache folder, which takes two minutes on two cores, and needs clang (19 or newer;
``CC`` and ``CXX`` choose another compiler), cmake, ninja and gcc:

    python tests/support/amx_library.py

llama.cpp is compiled from the sources of the installed llama-cpp-python, for processors with AVX-512, VNNI and AMX. On
one without AMX each of its instructions raises SIGILL, which ``amx_emulation.c`` answers. So a test can tell whether
the kernels are right, but not how fast they are.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path
from rpc_backend import download_sources

from visionward.machine.processor import read_processor
from visionward.runtime.ggml import native

_EMULATION = Path(__file__).with_name("amx_emulation.c")
_INSTRUCTIONS = ("AVX512", "AVX512_VNNI", "AMX_TILE", "AMX_INT8")
_OPTIONS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=OFF"),
    *("-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN"),
    *(f"-DGGML_{name}=ON" for name in _INSTRUCTIONS),
    *(f"-DLLAMA_BUILD_{name}=OFF" for name in ("TESTS", "EXAMPLES", "TOOLS", "SERVER", "COMMON")),
)
# What the kernels need besides AMX.
NEEDED = {"avx512f", "avx512bw", "avx512_vnni"}


def _folder() -> Path:
    return user_cache_path("visionward-tests") / f"amx-{native.version()}"


def library_folder() -> Path:
    """The folder of libllama, if it was built."""
    return _folder() / "lib"


def environment() -> dict[str, str]:
    """The variables with which a process loads the library, and AMX in software if the processor has none."""
    found = {"LLAMA_CPP_LIB_PATH": str(library_folder())}
    if "amx_int8" not in (read_processor().features or ()):
        found["LD_PRELOAD"] = str(_folder() / "amx_emulation.so")
    return found


def missing() -> str | None:
    """Why this machine cannot run the library; None if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "needs Linux on x86-64"
    if lacking := NEEDED - set(read_processor().features or ()):
        return f"needs a processor with {', '.join(sorted(lacking))}"
    return None if library_folder().is_dir() else "run tests/support/amx_library.py first"


def build_emulation() -> None:
    """Compile ``amx_emulation.c``."""
    _folder().mkdir(parents=True, exist_ok=True)
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-ftls-model=initial-exec")
    subprocess.run(("gcc", *flags, "-o", str(_folder() / "amx_emulation.so"), str(_EMULATION)), check=True)


def build() -> Path:
    """Build the libraries, unless they are there; the folder of libllama."""
    build_emulation()
    if library_folder().is_dir():
        return library_folder()
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        sources, built, aside = download_sources(Path(folder)), Path(folder) / "build", Path(folder) / "lib"
        compilers = [
            f"-DCMAKE_C_COMPILER={_compiler('CC', 'clang')}",
            f"-DCMAKE_CXX_COMPILER={_compiler('CXX', 'clang++')}",
        ]
        subprocess.run(
            ("cmake", "-G", "Ninja", "-S", str(sources), "-B", str(built), *_OPTIONS, *compilers), check=True
        )
        subprocess.run(("ninja", "-C", str(built), "llama"), check=True)
        shutil.copytree(built / "bin", aside, symlinks=True)
        aside.replace(library_folder())
    return library_folder()


def _compiler(variable: str, name: str) -> str:
    """The one that was asked for, or the newest clang."""
    if variable in os.environ:
        return os.environ[variable]
    found = (shutil.which(f"{name}-{version}") for version in range(25, 18, -1))
    return next((path for path in found if path is not None), name)


if __name__ == "__main__":
    print(build())  # noqa: T201
