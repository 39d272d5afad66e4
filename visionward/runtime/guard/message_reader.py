"""Reading OpenAI-style messages."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from visionward.errors import ConversationError, ImageError
from visionward.runtime.guard.message import ImagePart, Message, Role, TextPart
from visionward.runtime.guard.message_keys import (
    IMAGE_KEYS,
    MESSAGE_KEYS,
    REFUSAL_KEYS,
    SOURCE_KEYS,
    TEXT_KEYS,
    check_keys,
)
from visionward.runtime.images.images import ImageSource, decode_data_url

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\ is a drive
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image_url", "input_image", "image")
_REFUSAL_TYPE = "refusal"


@dataclass(frozen=True)
class MessageReader:
    """Reads messages in the form that `Conversation.from_messages` describes.

    Attributes:
        base_dir: the directory that relative paths are relative to; None for the working directory.
        allow_files: whether a path or ``file:`` URL may name an image.
    """

    base_dir: Path | None
    allow_files: bool

    def read(self, number: int, entry: object) -> Message:
        """Read one message.

        Args:
            number: its position in the list, from 1, for error messages.
            entry: the message.

        Raises:
            ConversationError: it is not of that form.
        """
        try:
            return self._message(entry)
        except (ConversationError, ImageError) as cause:
            raise ConversationError(f"message {number}: {cause}") from cause

    def _message(self, entry: object) -> Message:
        if not isinstance(entry, Mapping):
            raise ConversationError(f"found {type(entry).__name__}, expected an object with a role and content")
        role = entry.get("role")
        if not _is_role(role):
            raise ConversationError(_role_refusal(role))
        check_keys(entry, MESSAGE_KEYS, "the message")
        content, refusal = entry.get("content"), entry.get("refusal")
        if refusal is None:
            return Message(role, self._parts(content))
        if role != "assistant":
            raise ConversationError("a user message has a 'refusal': only an assistant message may have one")
        return Message("assistant", (*(() if content is None else self._parts(content)), TextPart(refusal)))

    def _parts(self, content: object) -> tuple[TextPart | ImagePart, ...]:
        """The parts of a message's content. Blank text next to an image is left out."""
        if content is None:
            raise ConversationError("the content is missing")
        if isinstance(content, str):
            return (TextPart(content),)
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            raise ConversationError(f"the content is {type(content).__name__}, expected a string or a list of parts")
        if len(content) == 0:
            raise ConversationError("the content is empty")
        has_image = any(isinstance(part, Mapping) and _part_type(part) in _IMAGE_TYPES for part in content)
        read = (self._part(part, may_be_blank=has_image) for part in content)
        return tuple(part for part in read if part is not None)

    def _part(self, part: object, *, may_be_blank: bool) -> TextPart | ImagePart | None:
        """One part; None for blank text that may be left out."""
        if not isinstance(part, Mapping):
            raise ConversationError(f"a content part is {type(part).__name__}, expected an object with a type")
        part_type = _part_type(part)
        if part_type in _IMAGE_TYPES:
            check_keys(part, IMAGE_KEYS, f"a {part_type!r} part")
            return ImagePart(self._image(_named_image(part, part_type)))
        if part_type == _REFUSAL_TYPE:
            check_keys(part, REFUSAL_KEYS, f"a {part_type!r} part")
            return TextPart(part.get("refusal"))  # type: ignore[arg-type]  # TextPart checks the type
        check_keys(part, TEXT_KEYS, f"a {part_type!r} part")
        if "text" not in part:
            raise ConversationError(f"a {part_type!r} part has no 'text'")
        text = part["text"]
        return None if may_be_blank and isinstance(text, str) and not text.strip() else TextPart(text)

    def _image(self, source: object) -> ImageSource:
        """The image that a part names: the bytes of a data URL, a path, or the object itself."""
        if isinstance(source, bytes | Image.Image | np.ndarray):
            return source
        if not isinstance(source, str | os.PathLike):
            raise ConversationError(f"an image is {type(source).__name__}, expected a data URL or a path")
        if not isinstance(source, str) or not _URL.match(source):
            return self._file(Path(source))
        scheme = source.partition(":")[0].lower()
        if scheme == "data":
            return decode_data_url(source)
        if scheme in {"http", "https"}:
            raise ConversationError("an image has a network URL, and nothing is downloaded: give a data URL or a file")
        if scheme != "file":
            raise ConversationError(f"an image has a URL of the scheme {scheme!r}, expected a data URL or a file")
        return self._file(_path_of(source))

    def _file(self, path: Path) -> Path:
        if not self.allow_files:
            raise ConversationError("an image is named by a path, which is not allowed here: give a data URL")
        return path if self.base_dir is None else self.base_dir / path


def is_system_message(entry: object) -> bool:
    """Whether a message has the role ``system`` or ``developer``, which the model's prompt does not have."""
    role = entry.get("role") if isinstance(entry, Mapping) else None
    return isinstance(role, str) and role in ("system", "developer")


def _is_role(role: object) -> TypeGuard[Role]:
    return isinstance(role, str) and role in ("user", "assistant")


def _role_refusal(role: object) -> str:
    if role is None:
        return "the role is missing"
    if is_system_message({"role": role}):
        return (
            f"the role is {role}, and Llama Guard's prompt has user and assistant only: put what matters into the "
            "policy's descriptions, or leave the message out (system='drop', --system drop)"
        )
    return f"the role is {role!r}, expected 'user' or 'assistant'"


def _part_type(part: Mapping[Any, Any]) -> str:
    found = part.get("type")
    if not (isinstance(found, str) and found in (*_TEXT_TYPES, *_IMAGE_TYPES, _REFUSAL_TYPE)):
        raise ConversationError(f"unknown content part type {found!r}, expected 'text' or 'image_url'")
    return found


def _named_image(part: Mapping[Any, Any], part_type: str) -> object:
    """The value of the part's one image key, or of ``url`` if that value is an object."""
    named = [part[key] for key in ("image_url", "image") if part.get(key) is not None]
    if len(named) > 1:
        raise ConversationError(f"a {part_type!r} part names two images")
    source = named[0] if named else None
    if isinstance(source, Mapping):
        check_keys(source, SOURCE_KEYS, f"the object in a {part_type!r} part")
        source = source.get("url")
    if source is None:
        raise ConversationError(f"a {part_type!r} part names no image")
    return source


def _path_of(url: str) -> Path:
    """The path in a ``file:`` URL."""
    try:
        parts = urlsplit(url)
    except ValueError as cause:
        raise ConversationError(f"malformed file: URL of an image: {cause}") from cause
    if parts.netloc not in {"", "localhost"}:
        raise ConversationError(f"the file: URL of an image names the host {parts.netloc}, and nothing is downloaded")
    if parts.query or parts.fragment:
        raise ConversationError("the file: URL of an image contains '?' or '#': write %3F or %23 in a file name")
    return Path(url2pathname(parts.path))
