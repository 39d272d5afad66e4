"""Data files, lazily imported modules and metadata of visionward.

With ``VISIONWARD_NO_DEMO=1`` in the environment of the build, the demonstration guard is left out (19 MB).
"""

import importlib.metadata
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, copy_metadata

from visionward import _MODULES
from visionward.diagnose.environment import PACKAGES
from visionward.machine.packages import requirements

# The data of rooms with hooks of their own.
_ELSEWHERE = ["compare/*", "serve/**/*", "__pyinstaller/**/*", "**/__pycache__/*"]
# Lists of files and where they came from, with paths of the machine of the build: 1 MB that no program reads.
_NOT_READ = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "sboms"}


def _metadata(name: str) -> Iterator[tuple[str, str]]:
    """Metadata and licences of a distribution; nothing if it is not installed."""
    try:
        found = copy_metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return
    for folder, target in found:
        for path in Path(folder).rglob("*"):
            part = path.relative_to(folder)
            if path.is_file() and part.parts[0] not in _NOT_READ:
                yield str(path), str(Path(target) / part.parent)


_without_demo = os.environ.get("VISIONWARD_NO_DEMO") == "1"

# visionward/__init__.py imports its public names by these strings, and an image that needs it the HEIF decoder.
hiddenimports = [*sorted(set(_MODULES.values())), *(["pillow_heif"] if find_spec("pillow_heif") else [])]
datas = collect_data_files("visionward", excludes=_ELSEWHERE + (["demo_guard/**/*"] if _without_demo else []))
# What `visionward doctor` reports the version of, or wants installed.
for _name in sorted({*PACKAGES, *requirements("visionward")}):
    datas += _metadata(_name)
