"""ggml's RPC backend: devices whose memory is that of another process, where no host pointer reaches a tensor.

As a program it builds the backend's library into the cache folder, which takes a minute, most of it for the download:

    python tests/support/rpc_backend.py

The library is compiled from the sources of the installed llama-cpp-python and registered with the installed ggml, which
stays as it is. As a pytest plugin (``-p rpc_backend``) it makes a server the default device of every test.
"""

import ctypes
import multiprocessing
import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from visionward.runtime.ggml import ggml, native
from visionward.runtime.ggml.native import symbol

_SOURCES = ("ggml-rpc/ggml-rpc.cpp", "ggml-rpc/transport.cpp")
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-DGGML_SHARED", "-DGGML_BACKEND_SHARED", "-DGGML_BACKEND_BUILD")


def library_file() -> Path:
    """Where the backend's library is, if it was built."""
    return user_cache_path("visionward-tests") / f"rpc-{native.version()}" / "libggml-rpc.so"


def download_sources(folder: Path) -> Path:
    """The folder of llama.cpp in the sources of the installed llama-cpp-python."""
    name = f"llama-cpp-python=={native.version()}"
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:")
    # pip runs the build backend for the name and version of a source archive.
    subprocess.run((*pip, "--dest", str(folder), name), check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        parts = [member for member in archive if "/vendor/llama.cpp/" in member.name]
        archive.extractall(folder, parts, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


def build() -> Path:
    """Build the library, unless it is there."""
    target = library_file()
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    base = native.library_path().parent / "libggml-base.so.0"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sources = download_sources(Path(folder)) / "ggml"
        aside = Path(folder) / target.name
        compiler = os.environ.get("CXX") or (sysconfig.get_config_var("CXX") or "g++").split()[0]
        includes = (f"-I{sources / 'include'}", f"-I{sources / 'src'}")
        files = [str(sources / "src" / name) for name in _SOURCES]
        subprocess.run((compiler, *_FLAGS, *includes, "-o", str(aside), *files, str(base)), check=True)
        aside.replace(target)
    return target


def _serve(library: str, endpoint: str) -> None:
    start = ctypes.CDLL(library).ggml_backend_rpc_start_server
    devices = (ctypes.c_void_p * 1)(ggml.dev_by_type(ggml.DeviceType.CPU))
    start(endpoint.encode(), None, ctypes.c_size_t(1), ctypes.c_size_t(1), devices)


@contextmanager
def serving(count: int = 1) -> Iterator[list[str]]:
    """Start servers in processes of their own, each with one CPU thread, and register them; the devices' names."""
    library = str(build())
    spawn = multiprocessing.get_context("spawn")
    endpoints = [f"127.0.0.1:{_free_port()}" for _ in range(count)]
    servers = [spawn.Process(target=_serve, args=(library, endpoint), daemon=True) for endpoint in endpoints]
    for server in servers:
        server.start()
    try:
        for endpoint in endpoints:
            _await(endpoint)
        before = {ggml.dev_name(ggml.dev_get(index)) for index in range(ggml.dev_count())}
        add = ctypes.CDLL(library).ggml_backend_rpc_add_server
        add.restype = ctypes.c_void_p
        register = symbol("ggml_backend_register", None, ctypes.c_void_p)
        for endpoint in endpoints:
            register(add(endpoint.encode()))
        names = [ggml.dev_name(ggml.dev_get(index)) for index in range(ggml.dev_count())]
        yield [name.decode() for name in names if name not in before]
    finally:
        for server in servers:
            server.terminate()
            server.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(endpoint: str, timeout_s: float = 60) -> None:
    host, port = endpoint.split(":")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


_running = serving()


def pytest_configure() -> None:
    """As a plugin: the servers of the whole run."""
    _running.__enter__()


def pytest_unconfigure() -> None:
    """Stop them."""
    _running.__exit__(None, None, None)


if __name__ == "__main__":
    print(build())  # noqa: T201
