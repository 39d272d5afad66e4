"""The dialog that downloads the two files of a model."""

import threading
from pathlib import Path

from model_download import DownloadError, Source, check_sources, download
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QFormLayout, QLabel, QLineEdit, QProgressBar, QWidget

from visionward import CancelToken
from visionward.paths import models_folder
from visionward.quantities import size_text


class DownloadDialog(QDialog):
    """Asks for the addresses and checksums of a model's files, and downloads them into the user's models folder.

    The download runs on a thread of its own. What it emits is received on the window's thread.
    """

    downloaded = Signal(Path, Path)
    _progressed = Signal(str, int)
    _failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Download model files")
        form = QFormLayout(self)
        note = QLabel(
            f"The files are stored in {models_folder()}. Get their SHA-256 checksums from whoever publishes them.",
            wordWrap=True,
        )
        form.addRow(note)
        self.fields = [self._row(form, label) for label in ("&Text file", "&Mmproj file")]
        self.message = QLabel(wordWrap=True)
        form.addRow(self.message)
        self.progress = QProgressBar(maximum=100)
        self.progress.setAccessibleName("Progress of the download")
        form.addRow(self.progress)
        buttons = QDialogButtonBox()
        self.start = buttons.addButton("&Download", QDialogButtonBox.ButtonRole.ActionRole)
        self.start.clicked.connect(self._start)
        self.cancel = buttons.addButton(QDialogButtonBox.StandardButton.Cancel)
        buttons.rejected.connect(self.reject)
        form.addRow(buttons)
        self.setMinimumWidth(620)
        self._cancel = CancelToken()
        self._progressed.connect(self._show_progress)
        self._failed.connect(self._show_failure)
        self.downloaded.connect(self.accept)

    def _row(self, form: QFormLayout, label: str) -> tuple[QLineEdit, QLineEdit]:
        url, checksum = QLineEdit(placeholderText="https://.../name.gguf"), QLineEdit(placeholderText="SHA-256")
        name = label.replace("&", "")
        url.setAccessibleName(f"{name}: address")
        checksum.setAccessibleName(f"{name}: SHA-256 checksum")
        form.addRow(f"{label}:", url)
        form.addRow("SHA-256:", checksum)
        return url, checksum

    def _start(self) -> None:
        sources = [Source(url.text().strip(), checksum.text().strip()) for url, checksum in self.fields]
        self._cancel = CancelToken()
        self.start.setEnabled(False)
        self.message.setText("Downloading...")
        # A daemon, so that a server that does not answer does not keep the program from ending.
        threading.Thread(target=self._download, args=(sources, self._cancel), daemon=True).start()

    def _download(self, sources: list[Source], cancel: CancelToken) -> None:
        folder = models_folder()
        try:
            check_sources(sources)
            paths = [download(source, folder, self._reporter(source), cancel) for source in sources]
        except DownloadError as error:
            self._failed.emit(str(error))
        except Exception as error:  # noqa: BLE001 - the dialog shows it, and is not left waiting
            self._failed.emit(f"{type(error).__name__}: {error}")
        else:
            self.downloaded.emit(*paths)

    def _reporter(self, source: Source):  # noqa: ANN202 - a function of model_download's type
        def report(there: int, size: int) -> None:
            of = f" of {size_text(size)}" if size else ""
            self._progressed.emit(f"{source.name}: {size_text(there)}{of}", 100 * there // size if size else 0)

        return report

    def _show_progress(self, text: str, percent: int) -> None:
        self.message.setText(text)
        self.progress.setValue(percent)

    def _show_failure(self, sentence: str) -> None:
        self.message.setText(sentence)
        self.start.setEnabled(True)

    def cancel_download(self) -> None:
        """End the download if one runs."""
        self._cancel.cancel()

    def reject(self) -> None:
        """End the download; without one, close the dialog."""
        if self.start.isEnabled():
            super().reject()
        else:
            self.cancel_download()
