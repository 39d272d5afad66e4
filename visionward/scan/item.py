"""One sample of a scan: where it comes from and what is judged."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from visionward.errors import DataError, VisionwardError
from visionward.formats.regular_file import open_regular
from visionward.runtime.guard.message import ImagePart
from visionward.runtime.guard.samples import Sample

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

    def read(self) -> "Item":
        """The item with the bytes of its images in memory, so that exactly those are judged that were hashed."""
        if isinstance(self.content, VisionwardError):
            return self
        try:
            return replace(self, content=_with_bytes(self.content))
        except DataError as error:
            return replace(self, content=error)


def place_of(values: Mapping[str, Any]) -> bytes:
    """A hash of ``name``, ``source`` and ``row`` of a result."""
    text = f"{values['source'] or ''}\0{values['row'] or 0}\0{values['name']}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:12]


def _with_bytes(sample: Sample) -> Sample:
    messages = tuple(
        replace(
            message,
            parts=tuple(
                ImagePart(_read(part.source))
                if isinstance(part, ImagePart) and isinstance(part.source, str | PathLike)
                else part
                for part in message.parts
            ),
        )
        for message in sample.conversation.messages
    )
    return replace(sample, conversation=replace(sample.conversation, messages=messages))


def _read(path: "str | PathLike[str]") -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else None
        raise DataError(f"the image {path} cannot be read: {reason or cause}") from cause
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"the image {path} is larger than the maximum of {MAX_IMAGE_BYTES >> 20} MiB")
    return data
