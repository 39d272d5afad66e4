"""The start of the program: a display, and one instance at a time."""

import os
import sys

from PySide6.QtCore import QLockFile
from PySide6.QtWidgets import QApplication, QMessageBox
from window import Window

from visionward.paths import config_folder

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def main() -> int:
    """Show the window until it is closed. Returns the exit code."""
    if sys.platform == "linux" and not any(os.environ.get(name) for name in _DISPLAYS):
        # Without a display Qt aborts, and leaves a core file.
        print("visionward-desktop: there is no display to open a window on.", file=sys.stderr)
        return 1
    app = QApplication(sys.argv)
    app.setApplicationName("visionward-desktop")
    config_folder().mkdir(parents=True, exist_ok=True)
    lock = QLockFile(str(config_folder() / "desktop.lock"))
    if not lock.tryLock(0) and lock.error() == QLockFile.LockError.LockFailedError:
        QMessageBox.information(None, "visionward", "visionward is running already: see its window.")
        return 1
    window = Window()
    window.show()
    return app.exec()
