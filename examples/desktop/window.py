"""The main window: image and conversation on the left, verdict and history on the right."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from download_dialog import DownloadDialog
from guard_thread import GuardThread
from image_field import ImageField
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QCloseEvent, QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMainWindow,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSplitter,
    QVBoxLayout,
    QWidget,
)
from result_view import ResultView
from settings import Settings, SettingsDialog, read_settings, write_settings
from welcome import Welcome

from visionward import Verdict
from visionward.demonstration import DEMO_NOTICE
from visionward.names import DEFAULT_THRESHOLD

MAX_HISTORY = 200
_MAX_TEXT_IN_HISTORY = 60


class Window(QMainWindow):
    """Loads a guard, and judges what the user gives."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("visionward")
        self._settings = read_settings()
        self._is_loaded = self._is_busy = False
        self._question = ""
        self.welcome: Welcome | None = None
        self.settings_dialog: SettingsDialog | None = None
        self.download_dialog: DownloadDialog | None = None
        self._make_widgets()
        self._make_menus()
        self.guard = GuardThread()
        self.guard.loaded.connect(self._loaded)
        self.guard.progressed.connect(self._progressed)
        self.guard.judged.connect(self._judged)
        self.guard.cancelled.connect(self._cancelled)
        self.guard.failed.connect(self._failed)
        if self._settings is None:
            self.show_welcome()
        self._load(self._settings or Settings())

    def _make_widgets(self) -> None:
        self.image = ImageField()
        self.image.changed.connect(self._update)
        self.prompt = self._text_field("User's message")
        self.response = self._text_field("Assistant's response")
        self.classify = QPushButton("&Classify")
        self.classify.setShortcut(QKeySequence("Ctrl+Return"))
        self.classify.setToolTip("Ctrl+Return")
        self.classify.clicked.connect(self._classify)
        self.cancel = QPushButton("C&ancel")
        self.cancel.setShortcut(QKeySequence(Qt.Key.Key_Escape))
        self.cancel.clicked.connect(self._cancel)
        buttons = QHBoxLayout()
        buttons.addWidget(self.classify)
        buttons.addWidget(self.cancel)
        left = QVBoxLayout()
        left.addWidget(self.image, 3)
        for label, field in (("&User's message:", self.prompt), ("Assistant's &response (optional):", self.response)):
            title = QLabel(label)
            title.setBuddy(field)
            left.addWidget(title)
            left.addWidget(field, 1)
        left.addLayout(buttons)

        self.message = QLabel(wordWrap=True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.message.setStyleSheet("QLabel { border: 1px solid #b3261e; border-radius: 6px; padding: 6px }")
        self.message.hide()
        self.result = ResultView(DEFAULT_THRESHOLD)
        self.history = QListWidget()
        self.history.setAccessibleName("History")
        self.history.setMaximumHeight(130)
        self.history.currentItemChanged.connect(self._show_again)
        title = QLabel("&History:")
        title.setBuddy(self.history)
        right = QVBoxLayout()
        right.addWidget(self.message)
        right.addWidget(self.result, 1)
        right.addWidget(title)
        right.addWidget(self.history)

        splitter = QSplitter()
        for layout in (left, right):
            side = QWidget()
            side.setLayout(layout)
            splitter.addWidget(side)
        self.setCentralWidget(splitter)
        self.model = QLabel()
        self.progress = QProgressBar(maximumWidth=160)
        self.progress.setAccessibleName("Progress")
        self.statusBar().addPermanentWidget(self.model)
        self.statusBar().addPermanentWidget(self.progress)
        self.resize(980, 680)

    def _text_field(self, name: str) -> QPlainTextEdit:
        field = QPlainTextEdit()
        field.setTabChangesFocus(True)
        field.setAccessibleName(name)
        field.textChanged.connect(self._update)
        return field

    def _make_menus(self) -> None:
        menu = self.menuBar().addMenu("&File")
        entries = (
            ("&Open image...", "Ctrl+O", self._open),
            ("&Paste image", "Ctrl+Shift+V", self._paste),
            ("Re&move image", "Ctrl+Backspace", self.image.clear_image),
            ("&Settings...", "Ctrl+,", self.show_settings),
            ("&Download model files...", "Ctrl+D", self.show_download),
            ("&Quit", "Ctrl+Q", self.close),
        )
        for text, keys, called in entries:
            action = QAction(text, self)
            action.setShortcut(QKeySequence(keys))
            action.triggered.connect(called)
            menu.addAction(action)
        about = QAction("&About the model...", self)
        about.triggered.connect(self.show_welcome)
        self.menuBar().addMenu("&Help").addAction(about)

    def show_welcome(self) -> None:
        """Explain the demonstration guard and where the real weights come from."""
        self.welcome = Welcome(self)
        self.welcome.settings_asked.connect(self.show_settings)
        self.welcome.download_asked.connect(self.show_download)
        self.welcome.finished.connect(self._welcomed)
        self.welcome.open()

    def _welcomed(self) -> None:
        if self._settings is None:
            self._keep(Settings())

    def show_settings(self) -> None:
        """Let the user choose model and engine."""
        dialog = SettingsDialog(self._settings or Settings(), self)
        dialog.accepted.connect(lambda: self._keep(dialog.settings(), load=True))
        self.settings_dialog = dialog
        dialog.open()

    def show_download(self) -> None:
        """Let the user download the model's files."""
        self.download_dialog = DownloadDialog(self)
        self.download_dialog.downloaded.connect(self._use_files)
        self.download_dialog.open()

    def _use_files(self, text: Path, mmproj: Path) -> None:
        self._keep(replace(self._settings or Settings(), text=str(text), mmproj=str(mmproj)), load=True)

    def _keep(self, settings: Settings, *, load: bool = False) -> None:
        self._settings = settings
        problem = write_settings(settings)
        if load:
            self._load(settings)
        if problem:
            self._show_message(problem)

    def _load(self, settings: Settings) -> None:
        self._is_loaded, self._is_busy = False, True
        self._show_message("")
        self.model.setText("")
        self.statusBar().showMessage("Loading the model...")
        self.progress.setRange(0, 0)
        self.guard.load(settings)
        self._update()

    def _loaded(self, name: str) -> None:
        self._is_loaded = True
        self.model.setText(name)
        self.model.setToolTip(DEMO_NOTICE if (self._settings or Settings()).pair is None else name)
        self._rest("Ready.")

    def _open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open image")
        if path:
            self.image.open(Path(path))

    def _paste(self) -> None:
        if not self.image.paste(QGuiApplication.clipboard().mimeData()):
            self.statusBar().showMessage("There is no image in the clipboard.")

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Paste an image if no text field took the key."""
        if event.matches(QKeySequence.StandardKey.Paste):
            self._paste()
        else:
            super().keyPressEvent(event)

    def _classify(self) -> None:
        prompt, response = self.prompt.toPlainText(), self.response.toPlainText()
        self._question = f"{self.image.name}: {prompt or response}"
        self._is_busy = True
        self._show_message("")
        self.history.setCurrentItem(None)
        self.result.clear()
        self.progress.setRange(0, 0)
        self.statusBar().showMessage("Classifying...")
        self._update()
        self.guard.classify(
            image=self.image.image,
            prompt=prompt or None,
            response=response or None,
            threshold=DEFAULT_THRESHOLD,
            category_scores=True,
        )

    def _cancel(self) -> None:
        self.statusBar().showMessage("Cancelling...")
        self.guard.cancel()

    def _progressed(self, stage: str, percent: int) -> None:
        self.progress.setRange(0, 100)
        self.progress.setValue(percent)
        self.progress.setFormat(f"{stage} %p %")

    def _judged(self, verdict: Verdict) -> None:
        text = " ".join(self._question.split())
        short = text if len(text) <= _MAX_TEXT_IN_HISTORY else f"{text[:_MAX_TEXT_IN_HISTORY]}..."
        item = QListWidgetItem(f"{datetime.now():%H:%M:%S}  {verdict.verdict.upper()} {verdict.score:.3f}  {short}")
        item.setData(Qt.ItemDataRole.UserRole, verdict)
        self.history.insertItem(0, item)
        while self.history.count() > MAX_HISTORY:
            self.history.takeItem(self.history.count() - 1)
        # The list takes an item of its own choice when it gets the focus of the disabled button.
        self.history.setCurrentItem(item)
        self.result.show_verdict(verdict)
        self._rest("Done.")

    def _show_again(self, item: QListWidgetItem | None) -> None:
        if item is not None and not self._is_busy:
            self._show_message("")
            self.result.show_verdict(item.data(Qt.ItemDataRole.UserRole))

    def _cancelled(self) -> None:
        self._rest("Cancelled: there is no verdict.")

    def _failed(self, sentence: str) -> None:
        self.result.clear()
        self._show_message(sentence)
        self._rest("")

    def _show_message(self, sentence: str) -> None:
        self.message.setText(sentence)
        self.message.setAccessibleName(f"Error: {sentence}")
        self.message.setVisible(bool(sentence))

    def _rest(self, message: str) -> None:
        self._is_busy = False
        self.progress.setRange(0, 100)
        self.progress.reset()
        self.statusBar().showMessage(message)
        self._update()

    def _update(self) -> None:
        """Enable what can be done now."""
        given = self.image.image is not None or bool(self.prompt.toPlainText() or self.response.toPlainText())
        self.classify.setEnabled(self._is_loaded and not self._is_busy and given)
        self.cancel.setEnabled(self._is_loaded and self._is_busy)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802 - Qt's name
        """End the download and the guard's process."""
        if self.download_dialog is not None:
            self.download_dialog.cancel_download()
        self.guard.close()
        super().closeEvent(event)
