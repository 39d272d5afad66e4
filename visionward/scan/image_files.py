"""Image files in folders, and the texts that go with them."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from visionward.errors import ConversationError, DataError, VisionwardError
from visionward.formats.file_type import HEAD_BYTES, file_type
from visionward.formats.regular_file import open_regular
from visionward.formats.whole_text import read_text
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample
from visionward.scan.item import Item
from visionward.scan.suffixes import IMAGE_SUFFIXES

# The user's text for an image.
PromptOf: TypeAlias = Callable[[Path], str | None]

_TEXT = ".txt"
_MAX_TEXT_BYTES = 2**20


def images_in(folder: Path) -> Iterator[Path]:
    """The image files in a folder and its subfolders, sorted within each folder.

    A file is an image if its name or its first bytes say so. Hidden files and folders are passed over, and links to
    folders are not followed.

    Raises:
        DataError: if a folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as cause:
        raise DataError(f"{folder}: {cause.strerror or cause}") from cause
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from images_in(path)
        elif is_image(path):
            yield path


def is_image(path: Path) -> bool:
    """Whether a file's name or first bytes say that it is an image. It may be damaged."""
    return path.is_file() and (path.suffix.lower() in IMAGE_SUFFIXES or _begins_as_image(path))


def images_of_text(path: Path) -> Iterator[Path]:
    """The images whose sidecar text a file is."""
    if path.suffix == _TEXT:
        for image in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")):
            if image != path and is_image(image):
                yield image


def _begins_as_image(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return (file_type(file.read(HEAD_BYTES)) or "").endswith(" image")
    except OSError:
        return False


def image_items(paths: Iterable[Path | str], prompt_of: PromptOf) -> Iterator[Item]:
    """An item for each image; a text is a URI."""
    for path in paths:
        yield Item(str(path), _sample(path, prompt_of))


def _sample(path: Path | str, prompt_of: PromptOf) -> Sample | VisionwardError:
    try:
        conversation = Conversation.from_prompt(prompt_of(Path(path)), None, path)
    except (DataError, ConversationError) as error:
        return error
    return Sample.make(str(path), conversation, unsafe=None)


def sidecar(path: Path) -> str:
    """The text in the file with the image's name and the suffix ``.txt``.

    Raises:
        DataError: if there is none, or it is not UTF-8 text.
    """
    text = path.with_suffix(_TEXT)
    try:
        return read_text(text, _MAX_TEXT_BYTES, "utf-8-sig").strip()
    except OSError as cause:
        raise DataError(f"the sidecar text {text} cannot be read: {cause.strerror or cause}") from cause
    except ValueError as cause:
        raise DataError(f"the sidecar text {text} is not UTF-8 text") from cause


def caption_of(captions: Mapping[str, str]) -> PromptOf:
    """Captions by the path of their image.

    The function raises DataError if an image has none.
    """

    def find(path: Path) -> str:
        caption = captions.get(os.path.abspath(path))  # noqa: PTH100 - follows no links
        if caption is None:
            raise DataError(f"the captions have none for {path}")
        return caption

    return find
