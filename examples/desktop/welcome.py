"""What the user should know before the first verdict."""

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QVBoxLayout, QWidget

from visionward.demonstration import DEMO_NOTICE

_TEXT = f"""<p><b>No model is chosen yet.</b> Until then, {DEMO_NOTICE}</p>
<p>The weights of Llama Guard 3 11B Vision are gated. Accept Meta's licence on the model's
<a href="https://huggingface.co/meta-llama/Llama-Guard-3-11B-Vision">page</a>, download them, and convert them with
<code>visionward convert</code>. Then open the two files that it writes, or download them from where you keep them.</p>
<p>Images and texts stay on this machine.</p>
<p>With Meta's weights: Built with Llama. This window uses Qt under the GNU LGPL 3.</p>"""


class Welcome(QDialog):
    """Explains the demonstration guard, and leads to the settings or to a download."""

    settings_asked = Signal()
    download_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Which model?")
        layout = QVBoxLayout(self)
        text = QLabel(_TEXT, wordWrap=True, openExternalLinks=True)
        text.setMinimumWidth(460)
        layout.addWidget(text)
        buttons = QDialogButtonBox()
        self.open_files = buttons.addButton("&Open model files...", QDialogButtonBox.ButtonRole.AcceptRole)
        self.download = buttons.addButton("Down&load model files...", QDialogButtonBox.ButtonRole.ActionRole)
        self.download.clicked.connect(self._ask_for_download)
        self.use_demo = buttons.addButton("Use the &demonstration guard", QDialogButtonBox.ButtonRole.RejectRole)
        self.use_demo.setDefault(True)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        self.accepted.connect(self.settings_asked)
        layout.addWidget(buttons)

    def _ask_for_download(self) -> None:
        self.reject()
        self.download_asked.emit()
