"""Freeze the window with Briefcase, which installs the packages beside a small program that starts Python.

On Linux it needs to run with the system's own Python, whose standard library the program uses.
"""

import compileall
import shutil
import subprocess
import sys
from pathlib import Path

import visionward

# The repository, from which Briefcase installs visionward.
_ROOT = Path(visionward.__file__).parents[1]
_NAME = "visionward-desktop"
# Installed with the packages, and of no use for the program. llama-cpp-python's wheel has its libraries twice.
_UNUSED = (
    *("bin", "include", "lib", "hf_xet", "huggingface_hub"),
    *("numpy/**/tests", "onnx/backend/test", "onnxruntime/capi/libonnxruntime.so*", "onnxruntime/transformers"),
    *("PySide6/Qt/libexec", "PySide6/Qt/metatypes", "PySide6/Qt/qml", "PySide6/Qt/translations", "PySide6/*.pyi"),
    *(f"PySide6/{tool}" for tool in ("assistant", "designer", "linguist", "lrelease", "lupdate", "qml*", "svgtoqml")),
    *(f"PySide6/Qt{module}.abi3.so" for module in ("Designer", "Help", "LabsStyleKit", "OpenGL*", "Q*", "Sql", "Test")),
    *(f"PySide6/Qt/lib/libQt6{module}*" for module in ("Q", "Designer", "Help", "Labs", "Lottie", "Sql", "Test")),
    *("PySide6/Qt/lib/libQt6WaylandCompositor*", "PySide6/Qt/lib/libQt6WaylandEgl*"),
    *(f"PySide6/Qt/plugins/{folder}" for folder in ("designer", "qmllint", "qmlls", "qmltooling", "sqldrivers")),
)
_PROJECT = """\
[tool.briefcase]
project_name = "{name}"
bundle = "org.visionward"
version = "0.1.0"
license = "Apache-2.0"
license-files = ["LICENSE"]
author = "visionward"
author_email = "visionward@example.org"

[tool.briefcase.app.{name}]
formal_name = "{name}"
description = "Judges images and conversations with Llama Guard 3 11B Vision"
sources = {sources}
requires = {requires}
cleanup_paths = {cleanup}
"""


def freeze(app: Path, options: list[str]) -> Path:
    """Build a project in ``build/briefcase`` of the working directory, and return the folder with the program.

    Args:
        app: the main module.
        options: more options of `briefcase build`.
    """
    project = Path("build", "briefcase")
    shutil.rmtree(project, ignore_errors=True)
    package = project / "visionward_desktop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(app, package / "__main__.py")
    modules = [path for path in sorted(app.parent.glob("*.py")) if path != app and not path.stem.startswith("freeze")]
    for path in modules:
        shutil.copy(path, project)
    for name in ("LICENSE", "CHANGELOG.md"):
        shutil.copy(_ROOT / name, project)
    text = _PROJECT.format(
        name=_NAME,
        sources=[package.name, *(path.name for path in modules)],
        requires=[str(_ROOT), "pyside6-essentials>=6.7", "requests>=2.31"],
        cleanup=[f"**/app_packages/{pattern}" for pattern in _UNUSED],
    )
    (project / "pyproject.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "briefcase", "build", "--no-input", *options]
    subprocess.run(command, check=True, cwd=project)  # noqa: S603 - this interpreter
    # Briefcase installs no bytecode, and its programs write none: each start would compile every module. Some packages
    # bring templates that do not compile.
    compileall.compile_dir(project / "build", quiet=2)
    return project / "build"
