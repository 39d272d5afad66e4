"""The settings of the window, kept in the user's configuration folder, and the dialog that changes them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from visionward.paths import config_folder, models_folder

ENGINES = ("auto", "ggml", "onnx", "openvino")
MAX_THREADS = 512


@dataclass(frozen=True)
class Settings:
    """What the window remembers.

    Attributes:
        text, mmproj: the model's files; both empty for the demonstration guard.
        engine: what encodes images.
        threads: CPU threads; 0 for as many as there are cores.
    """

    text: str = ""
    mmproj: str = ""
    engine: str = "auto"
    threads: int = 0

    @property
    def pair(self) -> tuple[Path, Path] | None:
        """The model's files; None for the demonstration guard."""
        return (Path(self.text), Path(self.mmproj)) if self.text or self.mmproj else None

    def engine_options(self) -> Any:
        """The keywords of ``GuardProcess.load``."""
        return {"vision_backend": self.engine, "threads": self.threads or None}


def settings_file() -> Path:
    """Where the settings are kept."""
    return config_folder() / "desktop.json"


def read_settings() -> Settings | None:
    """The settings; None at the first start, or if they cannot be read."""
    try:
        values = json.loads(settings_file().read_text(encoding="utf-8"))
        settings = Settings(**values)
    except (OSError, ValueError, TypeError):
        return None
    types = all(isinstance(value, type(getattr(Settings(), name))) for name, value in vars(settings).items())
    known = settings.engine in ENGINES and 0 <= settings.threads <= MAX_THREADS if types else False
    return settings if known else None


def write_settings(settings: Settings) -> str | None:
    """Keep the settings. Returns why that was impossible, or None."""
    file = settings_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(vars(settings), indent=1), encoding="utf-8")
    except OSError as error:
        return f"The settings could not be kept in {file}: {error.strerror or error}."
    return None


class SettingsDialog(QDialog):
    """Model files and engine."""

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Settings")
        form = QFormLayout(self)
        self.text = self._file_row(form, "&Text file:", settings.text)
        self.mmproj = self._file_row(form, "&Mmproj file:", settings.mmproj)
        note = QLabel(
            "Without files, the demonstration guard is used. A model's checksums are checked when it is loaded."
        )
        note.setWordWrap(True)
        form.addRow(note)
        self.engine = QComboBox()
        self.engine.addItems(ENGINES)
        self.engine.setCurrentText(settings.engine)
        form.addRow("Vision &engine:", self.engine)
        self.threads = QSpinBox()
        self.threads.setRange(0, MAX_THREADS)
        self.threads.setSpecialValueText("all cores")
        self.threads.setValue(settings.threads)
        form.addRow("CPU &threads:", self.threads)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        form.addRow(buttons)
        self.setMinimumWidth(560)

    def _file_row(self, form: QFormLayout, label: str, value: str) -> QLineEdit:
        field, button = QLineEdit(value), QPushButton("Open...")
        name = label.replace("&", "").rstrip(":")
        button.setAccessibleName(f"Open {name.lower()}")
        button.clicked.connect(lambda: self._choose(field, name))
        row = QHBoxLayout()
        row.addWidget(field)
        row.addWidget(button)
        form.addRow(label, row)
        title = form.labelForField(row)
        if isinstance(title, QLabel):
            title.setBuddy(field)
        field.setAccessibleName(name)
        return field

    def _choose(self, field: QLineEdit, name: str) -> None:
        start = field.text() or str(models_folder())
        path, _ = QFileDialog.getOpenFileName(self, f"Open {name.lower()}", start, "GGUF files (*.gguf)")
        if path:
            field.setText(path)

    def settings(self) -> Settings:
        """What the dialog says now."""
        return Settings(
            self.text.text().strip(), self.mmproj.text().strip(), self.engine.currentText(), self.threads.value()
        )
