"""Labelled samples in a JSONL file, one sample per line.

A line is an object with

- ``prompt``, the user's text, which may be left out if there is an image, and optionally ``response``, the assistant's
  text, which is then what is judged; or ``messages`` (OpenAI-style, see `Conversation.from_messages`);
- ``image``: an image in the user message, as a path relative to the file; with ``messages``, images are parts instead;
- ``label``: ``safe`` or ``unsafe``; left out or null if unknown;
- ``categories``: the violated codes of an unsafe sample (``["S1", "S9"]``); may be left out;
- ``id``: a name, unique in the file; ``line 12`` if left out;
- ``group``: the same for samples that depend on each other (variants of a question, pictures of a series), so that
  statistics do not count them as independent; the sample's own id if left out;
- ``extra``: any further data; never read.

The length of a line is limited (`visionward.formats.text_lines`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from visionward.errors import ConversationError, DataError
from visionward.formats.regular_file import open_regular
from visionward.formats.strict_json import parse_json
from visionward.formats.text_lines import numbered_lines
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.message import ImagePart, TextPart
from visionward.runtime.guard.policy import check_code
from visionward.runtime.guard.verdict import Verdict

SAMPLE_KEYS = ("id", "group", "image", "messages", "prompt", "response", "label", "categories", "extra")
_LABELS = {"safe": False, "unsafe": True}


@dataclass(frozen=True)
class Sample:
    """A conversation with or without a label.

    Attributes:
        id: unique in its data set.
        image: the file of the first image; None if there is no image or it is not a file.
        conversation: what is judged. Its images are read when they are needed.
        unsafe: the label; None if unknown.
        categories: the violated codes; empty for a safe sample, None if unknown.
        group: equal for samples that depend on each other.
    """

    id: str
    image: Path | None
    conversation: Conversation
    unsafe: bool | None
    categories: frozenset[str] | None
    group: str

    @classmethod
    def make(
        cls,
        identifier: str,
        conversation: Conversation,
        *,
        unsafe: bool | None,
        categories: Iterable[str] | None = None,
        group: str | None = None,
    ) -> "Sample":
        """A sample; the other fields follow from the arguments.

        Raises:
            DataError: a category code is malformed, or there are categories but the label is not ``unsafe``.
        """
        codes = frozenset(categories or ())
        for code in sorted(codes):
            check_code(code, DataError)
        if codes and not unsafe:
            raise DataError(f"there are categories ({', '.join(sorted(codes))}), but the label is not 'unsafe'")
        first = next(iter(conversation.images), None)
        path = Path(first) if isinstance(first, str | PathLike) else None
        known = codes if codes or unsafe is False else None
        return cls(identifier, path, conversation, unsafe, known, identifier if group is None else group)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], name: str, base: Path) -> "Sample":
        """A sample from a row with the keys that the module describes.

        Args:
            row: the row. Its image may also be bytes.
            name: the id if the row has none.
            base: the folder that paths are relative to.

        Raises:
            DataError: the row is malformed.
            ConversationError: there is nothing to judge, or a message is malformed.
        """
        unknown = [key for key in row if key not in SAMPLE_KEYS]
        if unknown:
            raise DataError(
                f"unknown key {unknown[0]!r}, expected {', '.join(SAMPLE_KEYS)} (put other data into 'extra')"
            )
        return cls.make(
            _name(row, "id") or name,
            _conversation(row, base),
            unsafe=_label(row.get("label")),
            categories=_categories(row.get("categories")),
            group=_name(row, "group"),
        )

    def matches(self, verdict: Verdict) -> bool:
        """Whether a verdict agrees with the label and names exactly the categories, if those are known."""
        named = {category.code for category in verdict.categories}
        return verdict.unsafe == self.unsafe and self.categories in (None, named)

    def digest(self) -> str:
        """A hash of what is judged: roles, texts and the contents of image files, but not label, id or group."""
        digest = hashlib.sha256()
        for message in self.conversation.messages:
            digest.update(f"\0{message.role}\0".encode())
            for part in message.parts:
                data = part.text.encode() if isinstance(part, TextPart) else _image_bytes(part)
                digest.update(f"{type(part).__name__}{len(data)}\0".encode() + data)
        return digest.hexdigest()[:32]


def _image_bytes(part: ImagePart) -> bytes:
    if isinstance(part.source, bytes):
        return part.source
    if isinstance(part.source, str | PathLike):
        try:
            with open_regular(part.source) as stream:
                return stream.read()
        except (OSError, ValueError) as cause:
            # Judging the sample reports the same error. The digest must change when the file appears.
            return f"unreadable {fspath(part.source)}: {cause}".encode()
    raise DataError(f"the image of a sample is {type(part.source).__name__}, expected a path or bytes")


def read_samples(path: str | PathLike[str]) -> list[Sample]:
    """The samples of a JSONL file in order. Images are not read yet.

    Raises:
        DataError: the file cannot be read, has no samples, or a line is malformed. The error names the line.
    """
    path = Path(path)
    samples: dict[str, Sample] = {}
    for number, line in _lines(path):
        try:
            sample = Sample.from_row(_object(line), f"line {number}", path.parent)
        except (DataError, ConversationError) as cause:
            raise DataError(f"{path}: line {number}: {cause}") from cause
        if sample.id in samples:
            raise DataError(f"{path}: line {number}: duplicate id {sample.id!r}")
        samples[sample.id] = sample
    if not samples:
        raise DataError(f"{path}: the file has no samples")
    return list(samples.values())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        yield from numbered_lines(path)
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}: not UTF-8 text (byte {cause.start})") from cause
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror or cause}") from cause


def _object(line: str) -> dict[str, Any]:
    value = parse_json(line, DataError)
    if not isinstance(value, dict):
        raise DataError(f"found {type(value).__name__}, expected an object")
    return value


def _name(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"{key!r} is {value!r}, expected text or a number")
    return str(value)


def _label(value: object) -> bool | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in _LABELS:
        raise DataError(f"the label is {value!r}, expected 'safe' or 'unsafe'")
    return _LABELS[value]


def _categories(value: object) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise DataError("'categories' is not a list of category codes")
    return value


def _conversation(entry: Mapping[str, Any], base: Path) -> Conversation:
    image = entry.get("image")
    if image is not None and not (isinstance(image, str | bytes) and image):
        raise DataError(f"'image' is {image!r}, expected a path")
    if "messages" in entry:
        if any(entry.get(key) is not None for key in ("image", "prompt", "response")):
            raise DataError("'messages' excludes 'image', 'prompt' and 'response': images are parts of the messages")
        return Conversation.from_messages(entry["messages"], base)
    # A URI is not a path; who reads the sample may know how to read it.
    source = base / image if isinstance(image, str) and "://" not in image else image
    return Conversation.from_prompt(entry.get("prompt"), entry.get("response"), source)
