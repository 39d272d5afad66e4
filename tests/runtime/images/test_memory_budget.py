"""Decoding keeps to the memory limit, and says in numbers why not."""

import threading

import image_files
import numpy as np
import pytest
from onnx_towers import limit_memory
from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images import memory_budget
from visionward.runtime.images.memory_budget import MemoryBudget

GIB = 2**30


@pytest.fixture(autouse=True)
def _held(monkeypatch):
    monkeypatch.setattr(memory_budget, "anonymous_bytes", lambda: GIB)


def opened(width, height, file_format="PNG", **info):
    image = Image.new("RGB", (1, 1))
    image._size = (width, height)
    image.format = file_format
    image.info.update(info)
    return image


def test_a_picture_that_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    limit_memory(monkeypatch, None)
    budget = MemoryBudget(GIB + 600 * 2**20)
    budget.check(opened(8000, 8000))
    with pytest.raises(ImageError) as caught:
        budget.check(opened(9400, 9400))
    assert str(caught.value) == (
        "decoding 9400 x 9400 pixels takes about 707 MB, but 629 MB of the memory limit of 1.70 GB are left: give a "
        "smaller image or raise the limit"
    )
    MemoryBudget().check(opened(9400, 9400))


def test_formats_take_more_or_less(monkeypatch):
    limit_memory(monkeypatch, None)
    budget = MemoryBudget(GIB + 8 * 5000 * 5000)
    budget.check(opened(5000, 5000, "JPEG"))
    for image in (
        opened(5000, 5000, "JPEG", progressive=1),
        opened(5000, 5000, "WEBP"),
        opened(5000, 5000, "JPEG2000"),
        opened(5000, 5000, "SOMETHING"),
    ):
        with pytest.raises(ImageError, match="memory limit"):
            budget.check(image)


def test_a_containers_limit_counts(monkeypatch):
    limit_memory(monkeypatch, GIB + 2**20)
    for budget in (MemoryBudget(), MemoryBudget(100 * GIB)):
        with pytest.raises(ImageError, match="memory limit"):
            budget.check(opened(9000, 9000))
        budget.check(opened(1120, 1120))  # what the tower needs for itself is never refused


@pytest.mark.parametrize("limit", [None, 100 * GIB])
def test_under_a_limit_images_take_turns(monkeypatch, limit):
    limit_memory(monkeypatch, None)
    budget, inside = MemoryBudget(limit), []

    def decode():
        with budget.turn():
            inside.append(1)

    thread = threading.Thread(target=decode)
    with budget.turn():
        thread.start()
        thread.join(0.2)
        assert bool(inside) == (limit is None)
    thread.join()
    assert inside


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "ICO"])
def test_what_is_inside_of_a_file_is_checked_too(monkeypatch, file_format):
    """An animation's frames and an icon can be larger than the file's header says."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    large = np.zeros((40, 40), np.uint8)
    data = {
        "GIF": image_files.gif((2, 2), [(large, (0, 0), 0, None)] * 2),
        "ICO": image_files.encoded(Image.new("RGB", (64, 64)), "ICO", sizes=[(64, 64)]).replace(
            b"\x40\x40", b"\1\1", 1
        ),
    }.get(file_format) or image_files.encoded(Image.new("RGB", (40, 40)), file_format)
    with pytest.raises(ImageError, match="too many pixels"):
        image_files.frames(data)
