"""Child processes of frozen programs, which start themselves. Here, scripts pass for frozen programs."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from visionward.errors import MissingExtraError, NativeLibraryError
from visionward.machine import extras, python_process
from visionward.machine.frozen import frozen_program
from visionward.machine.python_process import freeze_support
from visionward.runtime.ggml import native

ROOT = Path(__file__).parents[2]

PROGRAM = """#!{python}
import sys
from pathlib import Path
sys.frozen, sys.executable = True, {path!r}
sys.path[:0] = {places!r}
import visionward
{support}
with Path({path!r} + ".starts").open("a") as file:
    file.write("x")
import json
from visionward.machine.python_process import PythonProcess
import jobs_of_the_program
try:
    process = PythonProcess(jobs_of_the_program.job, (2,), None)
except OSError as error:
    print(json.dumps(str(error)))
else:
    print(json.dumps([process.receive(60), process.wait(60)]))
"""
JOBS = """
import sys
def job(number, sender):
    print("printed by the child")
    sender.send([number + 1, len(sys.argv), "visionward.errors" in sys.modules])
"""


@pytest.fixture
def run(tmp_path):
    if sys.platform == "win32":
        pytest.skip("scripts are not executable")

    def start(support, *arguments):
        path = tmp_path / "a program"
        (tmp_path / "jobs_of_the_program.py").write_text(JOBS)
        places = [str(tmp_path), str(ROOT), *sys.path]
        path.write_text(PROGRAM.format(python=sys.executable, path=str(path), places=places, support=support))
        path.chmod(0o755)
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), Path(f"{path}.starts").read_text(), done.stderr

    return start


def test_the_program_is_not_run_again(run):
    assert run("visionward.freeze_support()") == ([[3, 2, True], 0], "x", "printed by the child\n")


@pytest.mark.parametrize("arguments", [("file",), ("--visionward-child-process", "file")])
def test_other_arguments_are_the_programs(run, arguments):
    assert run("visionward.freeze_support()", *arguments)[:2] == ([[3, 2, True], 0], "x")


def test_without_support_nothing_is_started(run):
    answer, starts, _ = run("")
    assert "call visionward.freeze_support() at the start of its main module" in answer
    assert starts == "x"


def test_a_program_that_is_not_frozen_ignores_the_argument(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--visionward-child-process"])
    monkeypatch.setattr(python_process.FrozenSupport, "called", False)
    freeze_support()


def test_a_missing_library_names_the_files_and_the_hook(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(NativeLibraryError, match=r"libggml\.so and libllama\.so were sought in") as caught:
        native._import_llama()
    message = str(caught.value)
    own = Path(sys.modules["llama_cpp"].__file__).parent / "lib"
    assert f"in {own} and {tmp_path}." in message
    assert "hook-llama_cpp.py" in message
    assert "pip" not in message


def test_a_program_without_the_package(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    with pytest.raises(NativeLibraryError, match=r"was frozen without llama-cpp-python .* freeze it again"):
        native._import_llama()


def test_a_missing_extra_is_not_installed_into_a_frozen_program(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"^pillow-heif is not installed: freeze this program again in an .*"):
        extras.require("pillow_heif")


def test_an_interpreter_is_no_frozen_program():
    assert frozen_program() is None


def test_a_program_of_nuitka(monkeypatch):
    """Its main module has a variable, and its sys.executable does not exist."""
    monkeypatch.setattr(sys.modules["__main__"], "__compiled__", object(), raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["/opt/program/program.bin", "file"])
    monkeypatch.setattr(python_process.FrozenSupport, "called", True)
    assert frozen_program() == "/opt/program/program.bin"
    monkeypatch.setattr(python_process.spawn, "get_executable", lambda: b"/opt/program/program.bin")
    assert python_process._command() == ["/opt/program/program.bin", "--visionward-child-process"]


@pytest.mark.parametrize("line", ["Briefcase-Version: 0.4.7\n", ""])
def test_a_program_of_briefcase(monkeypatch, tmp_path, line):
    """Its sys.executable starts it; its metadata names Briefcase."""
    folder = tmp_path / "some_program-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\n{line}Name: some-program\nVersion: 1.0\n")
    main = types.ModuleType("__main__")
    main.__package__ = "some_program"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert frozen_program() == (sys.executable if line else None)
    main.__package__ = "a_package_without_metadata"
    assert frozen_program() is None
