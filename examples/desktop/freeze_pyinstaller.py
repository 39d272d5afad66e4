"""Freeze the window with PyInstaller, as one folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_NAME = "visionward-desktop"
# What the imports of a package reach, and the window does not use.
_UNUSED = (
    *("numpy.f2py", "numpy.fft", "numpy.polynomial", "numpy.testing"),
    *("doctest", "pdb", "pydoc", "pydoc_data", "readline", "unittest"),
    *("PySide6.QtNetwork", "PySide6.QtSvg"),
)
# The library of D-Bus and what it needs. Every Linux desktop has them.
_SYSTEM_LIBRARIES = (
    "libdbus-1.so.3",
    "libsystemd.so.0",
    "libgcrypt.so.20",
    "libgpg-error.so.0",
    "liblz4.so.1",
    "libcap.so.2",
)

# The checksum that auditwheel adds to the name of a library.
_AUDITWHEEL = re.compile(r"-[0-9a-f]{8}\.so")


def freeze(app: Path, options: list[str]) -> Path:
    """Build ``dist/visionward-desktop`` in the working directory, and return that folder.

    Args:
        app: the main module.
        options: more options of PyInstaller.
    """
    hooks = Path(__file__).with_name("hooks")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", "--windowed", "--name", _NAME]
    command += [f"--additional-hooks-dir={hooks}", *(f"--exclude-module={name}" for name in _UNUSED)]
    # The hooks import a module beside them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hooks), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([*command, *options, str(app)], check=True, env=environment)  # noqa: S603 - our own program
    bundle = Path("dist") / _NAME
    if sys.platform == "linux":
        _shrink(bundle)
    return bundle


def _shrink(bundle: Path) -> None:
    """Remove symbols for debuggers, and the libraries of the desktop.

    `strip`, and so PyInstaller's option for it, damages libraries that auditwheel put into a wheel.
    """
    for name in _SYSTEM_LIBRARIES:
        (bundle / "_internal" / name).unlink(missing_ok=True)
    strip = shutil.which("strip")
    libraries = [path for path in bundle.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    for library in libraries:
        if strip is not None and not _AUDITWHEEL.search(library.name):
            subprocess.run([strip, "--strip-unneeded", str(library)], check=True)  # noqa: S603 - the system's tool
