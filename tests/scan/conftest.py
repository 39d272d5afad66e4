"""A scan of the demonstration guard, and pictures of it."""

import shutil
from pathlib import Path

import pytest

from visionward.convert.demo_guard import demo_pair
from visionward.demonstration import demo_samples_path
from visionward.scan.options import ScanOptions


@pytest.fixture(scope="session")
def options():
    """The demonstration guard on one thread."""
    pair = demo_pair()
    return ScanOptions((pair.text, pair.mmproj), {"threads": 1, "vision_backend": "ggml"})


@pytest.fixture(scope="session")
def pictures():
    """The pictures of the demonstration's samples."""
    return sorted(Path(demo_samples_path()).parent.glob("*.jpg"))


@pytest.fixture
def folder(tmp_path, pictures):
    """A folder with five pictures, one of them under a second name, a damaged one, and files that are no images."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for path in pictures:
        shutil.copy(path, photos)
    shutil.copy(pictures[0], photos / "sub" / "again.jpeg")
    (photos / "sub" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.jpg").write_bytes(b"\xff\xd8\xff")
    return photos
