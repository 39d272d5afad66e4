"""The images of public sets: files, and cells of Parquet files that are written as files."""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

from visionward.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
# Images that were written for a cell are named after their digest.
_CELL_IMAGE = re.compile(r"[0-9a-f]{32}")


def remove_images(scratch: Path) -> None:
    """Remove the files that ``image_cell`` wrote, and the folder if it is empty then."""
    for path in scratch.glob("*"):
        if _CELL_IMAGE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        scratch.rmdir()


def image_cell(cell: Any, scratch: Path, base: Path) -> Path:
    """The image of a Parquet cell as a file: written into ``scratch`` if the cell has its bytes.

    Raises:
        DataError: if the cell has neither bytes nor a path.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, bytes):
        scratch.mkdir(parents=True, exist_ok=True)
        file = scratch / hashlib.sha256(data).hexdigest()[:32]
        if not file.exists() or file.stat().st_size != len(data):
            file.write_bytes(data)
        return file
    if isinstance(path, str) and path:
        return base / path
    raise DataError(f"an image cell has the type {type(cell).__name__}, expected bytes or a path")


def image_called(folder: Path, name: str) -> Path:
    """The image with this name and any suffix; a path that does not exist if there is none."""
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / f"{name}.jpg"
