"""A window that judges a picture and a text. The guard works on another thread, so the window stays responsive.

pip install pyside6-essentials
python window.py [PICTURE]
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from PySide6.QtCore import Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from visionward import CancelToken, ClassificationCancelledError, GuardProcess, Progress, Verdict, VisionwardError


class Window(QWidget):
    """Picture, text, and what the guard says.

    Signals carry what the worker thread reports to the window's own thread.
    """

    advanced = Signal(object)
    judged = Signal(object)
    failed = Signal(str)

    def __init__(self, picture: str = "") -> None:
        super().__init__()
        self.setWindowTitle("visionward")
        self.resize(560, 240)
        self.picture, self.text = QLineEdit(picture), QLineEdit()
        self.picture.setPlaceholderText("Picture")
        self.text.setPlaceholderText("What the user says")
        self.choose, self.start, self.stop = QPushButton("Choose..."), QPushButton("Judge"), QPushButton("Cancel")
        self.choose.clicked.connect(self.choose_picture)
        self.start.clicked.connect(self.judge)
        self.stop.clicked.connect(self.cancel)
        self.stop.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.result = QLabel("Loading the model ...")
        self.result.setWordWrap(True)
        row, layout = QHBoxLayout(), QVBoxLayout(self)
        row.addWidget(self.picture)
        row.addWidget(self.choose)
        layout.addLayout(row)
        for widget in (self.text, self.start, self.stop, self.bar, self.result):
            layout.addWidget(widget)
        self.advanced.connect(self.show_progress)
        self.judged.connect(self.show_verdict)
        self.failed.connect(self.show_end)
        self.token = CancelToken()
        # The guard is loaded and used on this one thread.
        self.worker = ThreadPoolExecutor(1)
        # Your own model: GuardProcess.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf", deadline_s=600)
        self.guard = self.worker.submit(GuardProcess.demo, deadline_s=600)
        self.guard.add_done_callback(lambda guard: self.failed.emit(str(guard.exception() or "Ready.")))

    def choose_picture(self) -> None:
        """Ask for a file."""
        name, _ = QFileDialog.getOpenFileName(self, "Picture")
        if name:
            self.picture.setText(name)

    def judge(self) -> None:
        """Start a classification."""
        self.token = CancelToken()
        self.start.setEnabled(False)
        self.stop.setEnabled(True)
        self.result.setText("Judging ...")
        self.worker.submit(self.classify, self.picture.text() or None, self.text.text() or None, self.token)

    def classify(self, picture: str | None, text: str | None, token: CancelToken) -> None:
        """On the worker thread."""
        try:
            guard = self.guard.result()
            verdict = guard.classify(image=picture, prompt=text, on_progress=self.advanced.emit, cancel=token)
        except ClassificationCancelledError:
            self.failed.emit("Cancelled.")
        except VisionwardError as error:
            self.failed.emit(f"Not judged: {error}")
        else:
            self.judged.emit(verdict)

    def cancel(self) -> None:
        """End the classification that runs."""
        self.token.cancel()

    def show_progress(self, progress: Progress) -> None:
        """Move the bar."""
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)

    def show_verdict(self, verdict: Verdict) -> None:
        """Show what the guard says."""
        categories = "".join(f", {category.code} {category.name}" for category in verdict.categories)
        self.show_end(f"{verdict.verdict.upper()}{categories}: P(unsafe) {verdict.score:.3f}")

    def show_end(self, text: str) -> None:
        """Show how it ended."""
        self.result.setText(text)
        self.start.setEnabled(True)
        self.stop.setEnabled(False)
        self.bar.reset()

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """Free the model with the window."""
        event.accept()
        self.token.cancel()
        self.worker.shutdown(cancel_futures=True)
        if self.guard.done() and not self.guard.cancelled() and self.guard.exception() is None:
            self.guard.result().close()


def main() -> int:
    """Show the window until it is closed."""
    application = QApplication(sys.argv)
    window = Window(*sys.argv[1:2])
    window.show()
    return application.exec()


if __name__ == "__main__":
    sys.exit(main())
