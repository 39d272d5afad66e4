"""The start of the program: a display, and one instance at a time."""

import os
import sys

from PySide6.QtCore import QLockFile, QtMsgType, qInstallMessageHandler
from PySide6.QtWidgets import QApplication, QMessageBox
from window import Window

from visionward.paths import config_folder


def main() -> int:
    """Show the window until it is closed. Returns the exit code."""
    app = _start_qt()
    app.setApplicationName("visionward-desktop")
    config_folder().mkdir(parents=True, exist_ok=True)
    lock = QLockFile(str(config_folder() / "desktop.lock"))
    if not lock.tryLock(0) and lock.error() == QLockFile.LockError.LockFailedError:
        QMessageBox.information(None, "visionward", "visionward is running already: see its window.")
        return 1
    window = Window()
    window.show()
    return app.exec()


def _start_qt() -> QApplication:
    """Qt's application.

    Without a display Qt writes several messages, aborts, and leaves a core file. Here the first message becomes one
    sentence on standard error.
    """
    messages: list[str] = []

    def receive(kind: QtMsgType, _context: object, text: str) -> None:
        messages.append(" ".join(text.split()))
        if kind == QtMsgType.QtFatalMsg:
            print(f"visionward-desktop cannot open a window: {messages[0]}", file=sys.stderr, flush=True)
            os._exit(1)

    qInstallMessageHandler(receive)
    app = QApplication(sys.argv)
    qInstallMessageHandler(None)
    for message in messages:
        print(message, file=sys.stderr)
    return app
