"""The llama.cpp library that llama-cpp-python ships: its version, its symbols and its log.

All symbols are resolved through the handle that llama-cpp-python opened. Opening libggml by its file name would load a
second copy of ggml, because wheels contain copies of the libraries instead of links.
"""

import collections
import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from visionward.errors import NativeLibraryError
from visionward.machine.frozen import frozen_program

TESTED_VERSIONS = ("0.3.36",)

logger = logging.getLogger("visionward.native")
# The log is silent until the host program configures logging.
logging.getLogger("visionward").addHandler(logging.NullHandler())

# ggml_log_level (ggml.h); CONT continues the previous line.
_CONTINUED = 5
_ERROR = 4
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


# GNU OpenMP's threads wait for each other at every node of a graph, by default for milliseconds in a busy loop. If
# other programs need the cores too, a waiting thread then uses the time that the one it waits for needs. On two cores a
# classification of 0.2 s took 0.8 to 9 s beside two busy processes and 1.7 to 2.8 s beside four; with this spin count
# 0.4 to 0.6 s and 1.0 to 1.4 s. On an idle machine it makes no difference; without spinning it takes a third longer.
SPIN_COUNT = "1000"


def _limit_spinning() -> None:
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def _import_llama() -> Any:
    _limit_spinning()
    # On abort, ggml would attach a debugger to this process to print its stack.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        import llama_cpp.llama_cpp as bindings  # noqa: PLC0415 - loading the library may fail
    except (ImportError, OSError, RuntimeError) as error:
        message = (
            f"llama-cpp-python {TESTED_VERSIONS[-1]} cannot be loaded ({error}); reinstall it with "
            f"`pip install llama-cpp-python=={TESTED_VERSIONS[-1]}`."
        )
        raise NativeLibraryError(_frozen_message(error) if frozen_program() else message) from error
    return bindings


def _frozen_message(error: Exception) -> str:
    """Why a frozen program lacks the library: it cannot be installed later."""
    package = importlib.util.find_spec("llama_cpp")
    folders = None if package is None else package.submodule_search_locations
    if not folders:
        return (
            f"this program was frozen without llama-cpp-python ({error}); freeze it again in an environment with "
            f"llama-cpp-python {TESTED_VERSIONS[-1]}."
        )
    # As llama_cpp/_ggml.py and llama_cpp/llama_cpp.py do.
    own = Path(folders[0]) / "lib"
    places = dict.fromkeys((own, Path(os.environ.get("LLAMA_CPP_LIB_PATH", own))))
    names = {"win32": "ggml.dll and llama.dll", "darwin": "libggml.dylib and libllama.dylib"}
    name = names.get(sys.platform, "libggml.so and libllama.so")
    return (
        f"llama.cpp cannot be loaded in this frozen program ({error}); {name} were sought in "
        f"{' and '.join(map(str, places))}. Freeze it with PyInstaller's hook hook-llama_cpp.py, which visionward "
        "brings and PyInstaller 6 finds by itself if visionward is installed in the environment of the build. Other "
        "tools must be told to include the folder lib of llama_cpp."
    )


llama = _import_llama()


def _resolver() -> list[ctypes.CDLL]:
    if sys.platform != "win32":
        return [llama._lib]  # noqa: SLF001 - the only handle that also resolves ggml's symbols
    folder = Path(llama._lib._name).parent  # noqa: SLF001
    names = ("ggml-base.dll", "ggml.dll")
    # Windows does not resolve symbols through a dependent library. These names are loaded already: no second copy.
    return [llama._lib, *(ctypes.CDLL(str(folder / name)) for name in names)]  # noqa: SLF001


_libraries = _resolver()


def symbol(name: str, result: Any, *arguments: Any) -> Any:
    """Bind a function of ggml-base, ggml or llama. Other threads run while it does.

    Raises:
        NativeLibraryError: if the installed library lacks it.
    """
    return _bind(name, ctypes.CFUNCTYPE(result, *arguments))


def quick_symbol(name: str, result: Any, *arguments: Any) -> Any:
    """Bind a function that returns at once. The GIL is kept: a busy thread would give it back 0.1 ms later.

    Raises:
        NativeLibraryError: if the installed library lacks it.
    """
    return _bind(name, ctypes.PYFUNCTYPE(result, *arguments))


def _bind(name: str, prototype: Any) -> Any:
    for library in _libraries:
        function = getattr(library, name, None)
        if function is not None:
            return prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)
    raise NativeLibraryError(
        f"the installed llama.cpp library lacks the function {name}; install llama-cpp-python {TESTED_VERSIONS[-1]}."
    )


def version() -> str:
    """The installed version of llama-cpp-python."""
    return importlib.metadata.version("llama-cpp-python")


def library_path() -> Path:
    """The file of the loaded llama library."""
    return Path(llama._lib._name)  # noqa: SLF001


class _NativeLog:
    """Sends the output of llama.cpp and ggml to ``logging``, and keeps the last error lines for our exceptions.

    Every line has the level DEBUG: loading a model writes 137 lines, none of which a program's user can act on. Errors
    are raised as exceptions that quote them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: collections.deque[str] = collections.deque(maxlen=4)
        self._level = 1
        self.callback = _LogCallback(self._receive)

    def _receive(self, level: int, text: bytes | None, _user: int | None) -> None:
        line = (text or b"").decode("utf-8", "replace").rstrip()
        with self._lock:
            if level != _CONTINUED:
                self._level = level
            if self._level == _ERROR and line.strip(". "):
                self._errors.append(line)
        if line.strip(". "):
            logger.debug("%s", line)

    def take_errors(self) -> str:
        """The last error lines since the previous call, joined, or an empty string."""
        with self._lock:
            text = "; ".join(self._errors)
            self._errors.clear()
        return text


_log = _NativeLog()
take_errors = _log.take_errors
for _setter in ("llama_log_set", "ggml_log_set"):
    symbol(_setter, None, _LogCallback, ctypes.c_void_p)(_log.callback, None)
llama.llama_backend_init()
