"""Data files, lazily imported modules and metadata of visionward.

With ``VISIONWARD_NO_DEMO=1`` in the environment of the build, the demonstration guard is left out (19 MB).
"""

import importlib.metadata
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, copy_metadata

from visionward import _MODULES
from visionward.diagnose.environment import PACKAGES

# The data of rooms with hooks of their own.
_ELSEWHERE = ["compare/*", "serve/**/*", "__pyinstaller/**/*", "**/__pycache__/*"]


def _distributions() -> Iterator[str]:
    """What `visionward doctor` reports the version of, or wants installed."""
    yield from PACKAGES
    for requirement in importlib.metadata.requires("visionward") or ():
        if "extra ==" not in requirement:
            yield re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _metadata(name: str) -> list[tuple[str, str]]:
    try:
        found: list[tuple[str, str]] = copy_metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    return found


_without_demo = os.environ.get("VISIONWARD_NO_DEMO") == "1"

# visionward/__init__.py imports its public names by these strings, and an image that needs it the HEIF decoder.
hiddenimports = [*sorted(set(_MODULES.values())), *(["pillow_heif"] if find_spec("pillow_heif") else [])]
datas = collect_data_files("visionward", excludes=_ELSEWHERE + (["demo_guard/**/*"] if _without_demo else []))
for _name in sorted(set(_distributions())):
    datas += _metadata(_name)
