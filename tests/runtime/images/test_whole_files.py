"""Pillow's flag that lets cut files pass: the guard is deaf to it, and others are not disturbed."""

import io
import threading

import image_files
import numpy as np
import pytest
from PIL import Image, ImageFile

from visionward.errors import ImageError
from visionward.runtime.images.images import decode_image
from visionward.runtime.images.whole_files import whole_files_only

PICTURE = image_files.picture(1, 64, 64)
CUT = {
    name: image_files.encoded(PICTURE, name)[:-1800] for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM")
}  # fmt: skip


@pytest.fixture
def tolerant(monkeypatch):
    """What training code does at import."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def pillow_alone(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image.convert("RGB")


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("name", CUT)
def test_cut_files_are_refused(name):
    for _ in range(2):
        with pytest.raises(ImageError):
            decode_image(CUT[name])


@pytest.mark.usefixtures("tolerant")
def test_wrong_checksums_and_later_frames_are_refused():
    data = bytearray(image_files.encoded(PICTURE))
    data[data.index(b"IDAT") + 4 : data.index(b"IDAT") + 9] = b"wrong"
    with pytest.raises(ImageError):
        decode_image(bytes(data))
    moving = image_files.encoded(PICTURE, "GIF", save_all=True, append_images=[image_files.picture(2, 64, 64)])
    with pytest.raises(ImageError):
        image_files.frames(moving[:-900])


@pytest.mark.usefixtures("tolerant")
def test_a_pil_image_that_is_not_loaded_yet():
    with Image.open(io.BytesIO(CUT["JPEG"])) as image:
        for _ in range(2):
            with pytest.raises(ImageError):
                decode_image(image)


@pytest.mark.usefixtures("tolerant")
def test_the_program_goes_on_as_it_was():
    expected = pillow_alone(CUT["JPEG"])
    with pytest.raises(ImageError):
        decode_image(CUT["JPEG"])
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert np.array_equal(pillow_alone(CUT["JPEG"]), expected)
    assert np.array_equal(decode_image(image_files.encoded(PICTURE)), PICTURE)
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with pytest.raises(OSError, match="truncated"):
        pillow_alone(CUT["JPEG"])


@pytest.mark.usefixtures("tolerant")
def test_threads_beside_are_not_disturbed():
    """Another thread loads cut files while this one refuses them."""
    failures, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            try:
                pillow_alone(CUT["PNG"])
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(200):
            with pytest.raises(ImageError):
                decode_image(CUT["PNG"])
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_a_flag_that_is_set_meanwhile(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    with pytest.raises(ImageError, match="was set while"), whole_files_only():
        ImageFile.LOAD_TRUNCATED_IMAGES = True
