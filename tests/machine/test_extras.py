"""Libraries of extras: a missing one is one sentence with the command that installs it."""

import sys
from pathlib import Path

import pytest

from visionward.errors import MissingExtraError
from visionward.machine import extras
from visionward.machine.extras import EXTRAS, require
from visionward.machine.packages import installed_version

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def without(monkeypatch, *modules):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in modules else found(name))


def test_the_first_module_is_returned():
    assert require("rich.console", "rich.table").__name__ == "rich.console"


def test_everything_that_is_missing_is_named_before_anything_is_imported(monkeypatch):
    without(monkeypatch, "rich", "sklearn", "scipy")
    with pytest.raises(MissingExtraError) as caught:
        require("rich", "scipy.stats", "scipy.special", "sklearn.metrics", "matplotlib")
    message = str(caught.value)
    assert message.startswith("rich, scipy and scikit-learn are not installed: ")
    assert message.endswith("install 'visionward[compare]'")


def test_one_library_is_singular(monkeypatch):
    without(monkeypatch, "openvino")
    with pytest.raises(MissingExtraError, match=r"^openvino is not installed: .*install 'visionward\[openvino\]'$"):
        require("openvino")


def test_a_library_that_cannot_be_imported_is_no_unexpected_error(monkeypatch, tmp_path):
    (tmp_path / "rich.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"rich cannot be imported .*a_library_that_nobody_has.*pip"):
        require("rich")


def test_the_extras_are_those_of_the_project():
    declared = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for package, extra in EXTRAS.values():
        assert any(requirement.startswith(f"{package}>=") for requirement in declared[extra])


def test_installed_version():
    assert installed_version("numpy")
    assert installed_version("a-package-that-nobody-has") is None
