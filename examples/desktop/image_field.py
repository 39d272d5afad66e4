"""The field for an image: dropped, pasted or opened."""

from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QMimeData, QSize, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QImageReader, QPixmap, QResizeEvent
from PySide6.QtWidgets import QLabel, QSizePolicy

_HINT = "Drop an image here,\npaste one, or open a file (Ctrl+O)."
_MIN_SIZE = QSize(280, 220)
# Larger pictures are shown by their name alone: the preview must not take the memory that the guard refuses to take.
_MAX_PREVIEW_PIXELS = 50_000_000


class ImageField(QLabel):
    """Shows the image that will be judged.

    ``image`` is what the guard gets: a path, the bytes of a PNG, or None. The guard decodes it by itself.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__(_HINT)
        self.image: Path | bytes | None = None
        self._pixmap = QPixmap()
        self.setAcceptDrops(True)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setMinimumSize(_MIN_SIZE)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFrameShape(QLabel.Shape.StyledPanel)
        self.setAccessibleName("Image: none")

    @property
    def name(self) -> str:
        """The image in a word or two, for the history."""
        if self.image is None:
            return "no image"
        return "pasted image" if isinstance(self.image, bytes) else self.image.name

    def open(self, path: Path) -> None:
        """Take a file."""
        reader = QImageReader(str(path))
        reader.setAutoTransform(True)
        size = reader.size()
        small = size.isValid() and size.width() * size.height() <= _MAX_PREVIEW_PIXELS
        self._take(path, QPixmap.fromImageReader(reader) if small else QPixmap())

    def paste(self, data: QMimeData) -> bool:
        """Take what was pasted or dropped. Returns whether it was an image or a local file."""
        files = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
        if files:
            self.open(files[0])
            return True
        pixmap = QPixmap(data.imageData()) if data.hasImage() else QPixmap()
        if pixmap.isNull():
            return False
        content = QByteArray()
        buffer = QBuffer(content)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        pixmap.save(buffer, "PNG")
        self._take(bytes(content.data()), pixmap)
        return True

    def clear_image(self) -> None:
        """Take no image."""
        self._take(None, QPixmap())

    def _take(self, image: Path | bytes | None, pixmap: QPixmap) -> None:
        self.image, self._pixmap = image, pixmap
        self.setAccessibleName(f"Image: {'none' if image is None else self.name}")
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        if self._pixmap.isNull():
            self.setText(_HINT if self.image is None else f"{self.name}\n(no preview)")
            return
        room = self.contentsRect().size()
        self.setPixmap(
            self._pixmap.scaled(room, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation)
        )

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """The same with and without an image."""
        return _MIN_SIZE

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Fit the preview into the new size."""
        super().resizeEvent(event)
        self._show()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802 - Qt's name
        """Accept files and pictures."""
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Take what was dropped."""
        if self.paste(event.mimeData()):
            event.acceptProposedAction()
