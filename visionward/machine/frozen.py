"""Whether this program is frozen: its executable is then no Python interpreter, and starts the program again."""

import importlib.metadata
import sys


def frozen_program() -> str | None:
    """The executable of this frozen program; None if it runs on a Python interpreter.

    PyInstaller sets ``sys.frozen``, as cx_Freeze and py2app do. Nuitka sets ``__compiled__`` in the main module, and
    its ``sys.executable`` does not exist. Briefcase writes its version into the metadata of the program that it
    packages, whose ``sys.executable`` starts it:
    https://briefcase.readthedocs.io/en/stable/how-to/building/access-packaging-metadata.html
    """
    if getattr(sys, "frozen", False):
        return sys.executable
    if hasattr(sys.modules.get("__main__"), "__compiled__"):
        return sys.orig_argv[0]
    return sys.executable if _is_packaged_by_briefcase() else None


def _is_packaged_by_briefcase() -> bool:
    package = getattr(sys.modules.get("__main__"), "__package__", None)
    if not package:
        return False
    try:
        return "Briefcase-Version" in importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return False
