"""Qt without a display, and a folder of its own for each test."""

import os
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "desktop"

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(scope="session")
def qt():
    """Qt's modules; none is imported if these tests are not selected."""
    sys.path.insert(0, str(EXAMPLE))
    from PySide6 import QtCore, QtGui, QtTest, QtWidgets  # noqa: PLC0415

    class Qt:
        app = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])

        def __getattr__(self, name):
            return next(getattr(module, name) for module in (QtCore, QtGui, QtTest, QtWidgets) if hasattr(module, name))

    return Qt()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path, tmp_path_factory):
    """Settings of its own, the converted demonstration guard shared."""
    folder = tmp_path / "Nutzer ö"
    folder.mkdir()
    shared = tmp_path_factory.getbasetemp() / "cache"
    shared.mkdir(exist_ok=True)
    (folder / "cache").symlink_to(shared)
    monkeypatch.setenv("VISIONWARD_HOME", str(folder))
    return folder


@pytest.fixture
def opened(qt):
    """``opened()``: a window that is shown."""
    from window import Window  # noqa: PLC0415

    windows = []

    def make():
        windows.append(Window())
        windows[-1].show()
        return windows[-1]

    yield make
    for window in windows:
        window.close()
        window.deleteLater()
    qt.app.processEvents()
