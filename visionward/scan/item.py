"""One sample of a scan: where it comes from and what is judged."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from visionward.errors import DataError, VisionwardError
from visionward.formats.regular_file import open_regular
from visionward.runtime.guard.message import ImagePart
from visionward.runtime.guard.samples import Sample
from visionward.scan.remote_files import is_uri, read_uri

# A larger file would be read into memory as a whole.
MAX_IMAGE_BYTES = 2**29


@dataclass(frozen=True)
class Item:
    """A sample, or why there is none.

    Attributes:
        name: the path of an image, or the sample's id in its table.
        content: what is judged, or why it cannot be.
        source: the table; None for an image.
        row: line of a JSONL file, or number of a row of another table, from 1; None for an image.
    """

    name: str
    content: Sample | VisionwardError
    source: str | None = None
    row: int | None = None

    @property
    def place(self) -> bytes:
        """A hash of where it comes from."""
        return place_of({"name": self.name, "source": self.source, "row": self.row})

    def image_sources(self) -> "Iterator[str | PathLike[str]]":
        """Paths and URIs of its images."""
        if isinstance(self.content, Sample):
            for message in self.content.conversation.messages:
                for part in message.parts:
                    if isinstance(part, ImagePart) and isinstance(part.source, str | PathLike):
                        yield part.source

    def listing_key(self) -> bytes:
        """A hash of what is known without reading images: place, texts, and size and time of local files."""
        digest = hashlib.sha256(self.place)
        if isinstance(self.content, VisionwardError):
            digest.update(f"error {self.content}".encode("utf-8", "surrogatepass"))
            return digest.digest()[:12]
        for message in self.content.conversation.messages:
            for part in message.parts:
                source = part.source if isinstance(part, ImagePart) else part.text
                digest.update(f"\0{message.role}\0{type(part).__name__}\0".encode() + _known(source))
        return digest.digest()[:12]

    def read(self) -> "Item":
        """The item with the bytes of its images in memory, so that exactly those are judged that were hashed."""
        if isinstance(self.content, VisionwardError):
            return self
        try:
            return replace(self, content=_changed(self.content, image_bytes))
        except DataError as error:
            return replace(self, content=error)

    def absolute(self) -> "Item":
        """The item with absolute paths, for a process with another working directory. Its name is the same."""
        if isinstance(self.content, VisionwardError):
            return self
        return replace(self, content=_changed(self.content, _absolute))


def place_of(values: Mapping[str, Any]) -> bytes:
    """A hash of ``name``, ``source`` and ``row`` of a result."""
    text = f"{values['source'] or ''}\0{values['row'] or 0}\0{values['name']}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:12]


def _changed(sample: Sample, change: "Callable[[str | PathLike[str]], str | PathLike[str] | bytes]") -> Sample:
    """The sample with other sources in place of paths and URIs."""
    messages = tuple(
        replace(
            message,
            parts=tuple(
                ImagePart(change(part.source))
                if isinstance(part, ImagePart) and isinstance(part.source, str | PathLike)
                else part
                for part in message.parts
            ),
        )
        for message in sample.conversation.messages
    )
    return replace(sample, conversation=replace(sample.conversation, messages=messages))


def _absolute(source: "str | PathLike[str]") -> "str | PathLike[str]":
    return source.absolute() if isinstance(source, Path) else source


def _known(source: object) -> bytes:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    if isinstance(source, Path):
        try:
            found = source.stat()
        except (OSError, ValueError):
            return b"unreadable"
        return f"{found.st_size} {found.st_mtime_ns}".encode()
    return str(source).encode("utf-8", "surrogatepass")


def image_bytes(path: "str | PathLike[str]") -> bytes:
    """The bytes of an image file or object.

    Raises:
        DataError: if it cannot be read. Its cause is FileNotFoundError if there is none.
    """
    if isinstance(path, str) and is_uri(path):
        return read_uri(path, MAX_IMAGE_BYTES)
    try:
        with open_regular(path) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else None
        raise DataError(f"the image {path} cannot be read: {reason or cause}") from cause
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"the image {path} is larger than the maximum of {MAX_IMAGE_BYTES >> 20} MiB")
    return data
