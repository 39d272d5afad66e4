"""Wheel and sdist, and an environment that has the wheel and nothing else."""

import os
import shutil
import sys
from importlib.util import find_spec

import pytest
from installation import ROOT, output_of, tracked


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The wheel, built from the sdist, and the sdist."""
    if find_spec("build") is None or find_spec("twine") is None:
        pytest.skip("the package extra is not installed")
    folder = tmp_path_factory.mktemp("dist")
    # Without what is ignored or not committed, as in a fresh clone.
    clone = tmp_path_factory.mktemp("clone")
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    output_of(sys.executable, "-m", "build", "--outdir", folder, clone)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="session")
def environment(built, tmp_path_factory):
    """Python of a new environment with the wheel and the server's libraries, and variables without ours."""
    folder = tmp_path_factory.mktemp("a folder") / "Umgebung ä"
    output_of(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VISIONWARD"))}
    variables["VISIONWARD_HOME"] = str(folder / "home")
    output_of(python, "-m", "pip", "install", "--no-input", f"{built[0]}[serve]", env=variables)
    return python, variables
