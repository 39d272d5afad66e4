"""Freeze the window with Nuitka through `pyside6-deploy`, which comes with PySide6 and names the release of Nuitka.

Nuitka follows imports as they are written: what visionward imports by name, its data files and the metadata that it
reads are named here. It compiles the window to C, and keeps the packages as bytecode: compiling them takes an hour, and
their work is done by native libraries.
"""

import configparser
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import PySide6

from visionward import _MODULES
from visionward.diagnose.environment import PACKAGES
from visionward.machine.packages import requirements

_NAME = "visionward-desktop"
# What the imports of a package reach, and the window does not use.
_UNUSED = (
    *("visionward.cli", "visionward.compare", "visionward.scan", "visionward.serve"),
    *("huggingface_hub", "matplotlib", "openvino", "pandas", "pyarrow", "ray", "scipy", "sklearn", "torch"),
    *("numpy.f2py", "numpy.testing", "onnx.backend", "onnx.reference", "pip", "pytest", "setuptools", "transformers"),
)
_BYTECODE = (
    *("PIL", "certifi", "charset_normalizer", "diskcache", "gguf", "google", "idna", "jinja2", "llama_cpp"),
    *("markupsafe", "ml_dtypes", "numpy", "onnx", "onnxruntime", "platformdirs", "requests", "tqdm"),
    *("typing_extensions", "urllib3", "visionward", "yaml"),
)


def freeze(app: Path, options: list[str]) -> Path:
    """Build ``build/nuitka`` in the working directory, and return the folder with the program.

    Args:
        app: the main module.
        options: more options of Nuitka.
    """
    project = Path("build", "nuitka")
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    for path in sorted(app.parent.glob("*.py")):
        if not path.stem.startswith("freeze"):
            shutil.copy(path, project / ("app.py" if path == app else path.name))
    # What pyside6-deploy writes by itself also names the release of Nuitka that it needs, and installs.
    spec = configparser.ConfigParser(interpolation=None)
    spec.read(Path(PySide6.__file__).parent / "scripts" / "deploy_lib" / "default.spec", encoding="utf-8")
    spec["app"].update(title=_NAME, project_dir=".", input_file="app.py", exec_directory=".")
    spec["qt"]["modules"] = "Core,Gui,Widgets"
    spec["nuitka"].update(mode="standalone", extra_args=" ".join([*_arguments(), *options]))
    with (project / "pysidedeploy.spec").open("w", encoding="utf-8") as file:
        spec.write(file)
    run = "import sys; from PySide6.scripts.pyside_tool import deploy; sys.exit(deploy())"
    command = [sys.executable, "-c", run, "--force", "--keep-deployment-files", "-c", "pysidedeploy.spec"]
    subprocess.run(command, check=True, cwd=project)  # noqa: S603 - this interpreter
    return project / "deployment" / "app.dist"


def _arguments() -> Iterator[str]:
    yield "--noinclude-qt-translations"
    yield "--include-package-data=visionward"
    yield from (f"--include-module={module}" for module in sorted(set(_MODULES.values())))
    yield f"--nofollow-import-to={','.join(_UNUSED)}"
    yield from (f"--noinclude-custom-mode={package}:bytecode" for package in _BYTECODE)
    for package in sorted({*PACKAGES, *requirements("visionward")}):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        # Nuitka's own option for metadata refuses a package that the program does not import.
        for file in files:
            if file.name == "METADATA" and file.parent.suffix == ".dist-info":
                yield f"--include-data-files={file.locate()}={file}"
