"""Rooms that only read files load no native library."""

import pkgutil
import subprocess
import sys

import visionward.formats
import visionward.machine
import visionward.runtime.images

ROOMS = (visionward.formats, visionward.machine, visionward.runtime.images)
OTHERS = (
    "visionward.cli.main",
    "visionward.diagnose.benchmark_comparison",
    "visionward.diagnose.pair_summary",
    "visionward.compare.report",
    "visionward.runtime.guard.conversation",
    "visionward.runtime.guard.chat_template",
    "visionward.runtime.guard.verdict",
)
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "llama_cpp" not in sys.modules, name
"""


def test_no_native_library_is_loaded() -> None:
    names = [module.name for room in ROOMS for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")]
    assert len(names) > 30
    subprocess.run([sys.executable, "-c", IMPORT, *names, *OTHERS], check=True, timeout=120)
