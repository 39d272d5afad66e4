"""ggml's Vulkan backend on Mesa's software driver: GPU kernels without a GPU, on Debian 12.

As a program it downloads what is missing into the cache folder, nothing is installed, and builds the backend's library
there from the sources of the installed llama-cpp-python, which takes 20 minutes on two busy cores:

    python tests/support/vulkan_backend.py

Debian 12's own Vulkan headers are too old for ggml, and its Mesa crashes: they come from the next release and from the
backports. As a pytest plugin (``-p vulkan_backend``) it makes the driver the default device of every test.
"""

import ctypes
import json
import os
import subprocess
import tempfile
from pathlib import Path

from platformdirs import user_cache_path
from rpc_backend import download_sources

from visionward.runtime.ggml import native
from visionward.runtime.ggml.native import symbol

_SIGNED = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
_PACKAGES = {
    "bookworm": ("libvulkan1", "glslc", "libshaderc1", "libllvm15"),
    "bookworm-backports": ("mesa-vulkan-drivers", "libdrm2", "libdrm-amdgpu1"),
    "trixie": ("libvulkan-dev", "spirv-headers"),
}
# Loaded first, so that the driver finds them by name.
_LIBRARIES = ("libdrm.so.2", "libdrm_amdgpu.so.1", "libLLVM-15.so.1", "libvulkan.so.1")


def _folder() -> Path:
    return user_cache_path("visionward-tests") / f"vulkan-{native.version()}"


def _system() -> Path:
    return _folder() / "root" / "usr"


def library_file() -> Path:
    """Where the backend's library is, if it was built."""
    return _folder() / "build" / "src" / "ggml-vulkan" / "libggml-vulkan.so"


def _archive() -> str:
    """The package archive that this system takes its own packages from."""
    listed = subprocess.run(
        ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    # Security updates have an archive of their own, without the other suites.
    found = next((uri for uri in listed if "security" not in uri), None)
    if found is None:
        raise RuntimeError("apt knows no Debian archive; run `apt-get update` first")
    return found


def _fetch() -> None:
    """Download the packages with lists of our own, and unpack them."""
    apt, debs = _folder() / "apt", _folder() / "debs"
    for folder in (apt / "lists" / "partial", debs):
        folder.mkdir(parents=True, exist_ok=True)
    sources, archive = apt / "sources.list", _archive()
    sources.write_text("".join(f"deb {_SIGNED} {archive} {suite} main\n" for suite in _PACKAGES))
    settings = (
        *("-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-"),
        *("-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt}", "-o", "APT::Sandbox::User=root"),
    )
    subprocess.run(("apt-get", *settings, "update"), check=True)
    wanted = [f"{name}/{suite}" for suite, names in _PACKAGES.items() for name in names]
    subprocess.run(("apt-get", *settings, "download", *wanted), check=True, cwd=debs)
    for package in debs.glob("*.deb"):
        subprocess.run(("dpkg", "-x", str(package), str(_folder() / "root")), check=True)


def build() -> Path:
    """Build the library, unless it is there."""
    if library_file().is_file():
        return library_file()
    _fetch()
    libraries = _system() / "lib" / "x86_64-linux-gnu"
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        sources = download_sources(Path(folder)) / "ggml"
        # CMake's configuration of ggml by itself wants this file, which the archive lacks.
        (sources / "ggml.pc.in").touch()
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "BUILD_SHARED_LIBS": "ON",
            "CMAKE_PREFIX_PATH": _system(),
            "GGML_VULKAN": "ON",
            "GGML_CPU": "OFF",
            "GGML_BUILD_TESTS": "OFF",
            "GGML_BUILD_EXAMPLES": "OFF",
            "Vulkan_INCLUDE_DIR": _system() / "include",
            "Vulkan_LIBRARY": libraries / "libvulkan.so.1",
            "Vulkan_GLSLC_EXECUTABLE": _system() / "bin" / "glslc",
            "CMAKE_CXX_FLAGS": f"-isystem {_system() / 'include'}",
        }
        environment = os.environ | {"LD_LIBRARY_PATH": str(libraries)}
        target = str(_folder() / "build")
        settings = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run(("cmake", "-S", str(sources), "-B", target, *settings), check=True, env=environment)
        subprocess.run(("cmake", "--build", target, "--target", "ggml-vulkan", "-j", "2"), check=True, env=environment)
    return library_file()


def register() -> None:
    """Make the driver a device of this process, ``Vulkan0``."""
    library = build()
    libraries = _system() / "lib" / "x86_64-linux-gnu"
    driver = _folder() / "driver.json"
    found = json.loads((_system() / "share" / "vulkan" / "icd.d" / "lvp_icd.json").read_text())
    found["ICD"]["library_path"] = str(libraries / "libvulkan_lvp.so")
    driver.write_text(json.dumps(found))
    # llama.cpp's own tests turn float16 off on this driver too.
    os.environ.update(
        {name: str(driver) for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")}
        | {"GGML_VK_VISIBLE_DEVICES": "0", "GGML_VK_DISABLE_F16": "1"}
    )
    for name in _LIBRARIES:
        ctypes.CDLL(str(libraries / name), ctypes.RTLD_GLOBAL)
    backend = ctypes.CDLL(str(library)).ggml_backend_vk_reg
    backend.restype = ctypes.c_void_p
    symbol("ggml_backend_register", None, ctypes.c_void_p)(backend())


def pytest_configure() -> None:
    """As a plugin: from before the first test."""
    register()


if __name__ == "__main__":
    print(build())  # noqa: T201
