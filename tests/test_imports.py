"""Rooms that only read files load no native library, and the package itself imports quickly."""

import pkgutil
import subprocess
import sys

import visionward
import visionward.formats
import visionward.machine
import visionward.runtime.images
from visionward import errors

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


PUBLIC = """
import sys, time
started = time.perf_counter()
import visionward
taken = time.perf_counter() - started
assert not {"llama_cpp", "onnxruntime", "numpy", "PIL", "gguf", "jinja2"} & set(sys.modules), sorted(sys.modules)
for name in visionward.__all__:
    if name.endswith("Error"):
        assert issubclass(getattr(visionward, name), visionward.VisionwardError), name
assert "llama_cpp" not in sys.modules
print(taken)
"""


def test_importing_the_package_is_quick_and_loads_nothing_large() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", PUBLIC], check=True, timeout=60, capture_output=True) for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) < 0.1


def test_every_public_name_is_there() -> None:
    assert set(visionward.__all__) <= set(dir(visionward))
    for name in visionward.__all__:
        assert getattr(visionward, name) is not None
    leaves = {value.__name__ for value in vars(errors).values() if isinstance(value, type)}
    assert leaves <= {*visionward.__all__}


def test_no_native_library_is_loaded() -> None:
    names = [module.name for room in ROOMS for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")]
    assert len(names) > 30
    subprocess.run([sys.executable, "-c", IMPORT, *names, *OTHERS], check=True, timeout=120)
