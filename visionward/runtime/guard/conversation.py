"""The conversation that is judged: OpenAI-style messages, checked, in a form that the prompt can be rendered from."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from visionward.errors import ConversationError, ImageError
from visionward.formats.strict_json import parse_json, read_json
from visionward.runtime.guard.message_keys import (
    CONVERSATION_KEYS,
    IMAGE_KEYS,
    MESSAGE_KEYS,
    REFUSAL_KEYS,
    SOURCE_KEYS,
    TEXT_KEYS,
    check_keys,
)
from visionward.runtime.images.images import ImageSource, decode_data_url

Role: TypeAlias = Literal["user", "assistant"]

# llama.cpp takes UTF-8 with a length, so a NUL would pass its tokenizer, but it ends the text in every C string on
# the way; a lone surrogate has no UTF-8 form at all.
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: C:\ is a drive
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image_url", "input_image", "image")
_REFUSAL_TYPE = "refusal"


@dataclass(frozen=True)
class TextPart:
    """Some text of a message.

    Raises:
        ConversationError: it is blank, or holds a character that no tokenizer can read.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConversationError(f"the text is {type(self.text).__name__}, expected a string")
        if not self.text.strip():
            raise ConversationError("the text is empty")
        if bad := _UNUSABLE.search(self.text):
            what = "a NUL character" if bad[0] == "\x00" else f"a lone surrogate (U+{ord(bad[0]):04X})"
            raise ConversationError(f"the text holds {what} at position {bad.start()}: no tokenizer can read it")


@dataclass(frozen=True, eq=False)
class ImagePart:
    """An image of a message; not decoded yet."""

    source: ImageSource


@dataclass(frozen=True)
class Message:
    """What one side says in one turn.

    Attributes:
        role: who speaks.
        parts: text and images in order. Empty only in what `Conversation.for_image` makes.

    Raises:
        ConversationError: the role is unknown, or the assistant shows an image.
    """

    role: Role
    parts: tuple[TextPart | ImagePart, ...]

    def __post_init__(self) -> None:
        if self.role not in ("user", "assistant"):
            raise ConversationError(_role_refusal(self.role))
        if self.role == "assistant" and self.images:
            raise ConversationError(
                "an assistant message holds an image: the model judges images of user messages only"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The text parts."""
        return tuple(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The image parts' sources."""
        return tuple(part.source for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True)
class Conversation:
    """A conversation whose last message is judged.

    Raises:
        ConversationError: it has no messages, or they do not alternate between user and assistant, the user first.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConversationError("the conversation has no messages")
        for index, message in enumerate(self.messages):
            expected = ("user", "assistant")[index % 2]
            if message.role != expected:
                raise ConversationError(
                    f"message {index + 1}: the role is {message.role}, expected {expected}: "
                    "user and assistant must take turns, the user first"
                )
        if not any(message.parts for message in self.messages):
            raise ConversationError("the conversation has neither text nor an image to judge")

    @classmethod
    def from_prompt(
        cls, prompt: str | None, response: str | None = None, image: ImageSource | None = None
    ) -> "Conversation":
        """A conversation of one user message and perhaps the assistant's response to it.

        Args:
            prompt: the user's text; may be None or empty where there is an image.
            response: the assistant's text; if given, it is what is judged.
            image: shown by the user. A string is always a path here.

        Raises:
            ConversationError: there is neither a prompt nor an image, or a text cannot be used.
        """
        parts: list[TextPart | ImagePart] = [] if image is None else [ImagePart(image)]
        blank = isinstance(prompt, str) and not prompt.strip()
        if prompt is not None and not (parts and blank):
            parts.append(_located(1, prompt))
        if not parts:
            raise ConversationError("there is neither a prompt nor an image to judge")
        messages = [Message("user", tuple(parts))]
        if response is not None:
            messages.append(Message("assistant", (_located(2, response),)))
        return cls(tuple(messages))

    @classmethod
    def from_messages(
        cls, messages: object, base_dir: str | os.PathLike[str] | None = None, *, allow_files: bool = True
    ) -> "Conversation":
        """A conversation from messages as the Chat Completions and Responses APIs of OpenAI spell them.

        A message is ``{"role": "user" | "assistant", "content": ...}``; its content a string, or a list of parts:
        ``{"type": "text", "text": "..."}`` (also ``input_text``, ``output_text``),
        ``{"type": "image_url", "image_url": {"url": "..."}}`` (also the URL itself in place of the object, and
        ``input_image``), and ``{"type": "image", "image": ...}`` with any image that `decode_image` takes. A refusal
        (``{"role": "assistant", "content": null, "refusal": "..."}``, or a part of that type) is text of the assistant.
        Other keys are refused unless they are those that clients send along and hold nothing (`message_keys`): what
        stands there would not be judged. That goes for ``name``, too.
        A URL is a ``data:`` URL, a ``file:`` URL or a path. Nothing is ever fetched from a network.

        Args:
            messages: the list of messages.
            base_dir: what relative paths are relative to; the working directory if None.
            allow_files: whether images may be named by path or ``file:`` URL. A server that answers others says no,
                or anyone could have its files judged.

        Raises:
            ConversationError: the messages are not of that form; the message says which one and why.
        """
        if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
            raise ConversationError(f"the messages are {type(messages).__name__}, expected a list")
        reader = _MessageReader(None if base_dir is None else Path(base_dir), allow_files)
        return cls(tuple(_message(index, entry, reader) for index, entry in enumerate(messages, start=1)))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, allow_files: bool = True) -> "Conversation":
        """A conversation from a JSON file: a list of messages, or an object that has one under ``messages``.

        Beside ``messages`` the object may have the name of a ``model``, as a request does, and nothing else.
        Relative image paths are relative to the file's directory.

        Args:
            path: the file.
            allow_files: whether images may be named by path or ``file:`` URL.

        Raises:
            ConversationError: the file cannot be read, is no regular file, has more than 256 MiB, or is not of that
                form; the message names it.
        """
        value = read_json(path, ConversationError)
        try:
            return cls._from_value(value, Path(path).parent, allow_files=allow_files)
        except ConversationError as cause:
            raise ConversationError(f"{path}: {cause}") from cause

    @classmethod
    def from_json(
        cls, text: str, base_dir: str | os.PathLike[str] | None = None, *, allow_files: bool = True
    ) -> "Conversation":
        """A conversation from the text of such a file.

        Args:
            text: the JSON.
            base_dir: what relative image paths are relative to; the working directory if None.
            allow_files: whether images may be named by path or ``file:`` URL.

        Raises:
            ConversationError: the text is not of that form.
        """
        return cls._from_value(parse_json(text, ConversationError), base_dir, allow_files=allow_files)

    @classmethod
    def _from_value(
        cls, value: object, base_dir: str | os.PathLike[str] | None, *, allow_files: bool
    ) -> "Conversation":
        return cls.from_messages(_unwrapped(value), base_dir, allow_files=allow_files)

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """Every image in order."""
        return tuple(source for message in self.messages for source in message.images)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text part in order."""
        return tuple(text for message in self.messages for text in message.texts)

    @property
    def judged_role(self) -> Literal["User", "Agent"]:
        """The side that is judged, by the name that the prompt has for it: the one that spoke last."""
        return "User" if self.messages[-1].role == "user" else "Agent"

    @property
    def judges_image_alone(self) -> bool:
        """Whether the judged message has no text.

        Allowed, but the model's card says that it is not meant as a pure image classifier: callers should warn.
        """
        return not self.messages[-1].texts

    def for_image(self, index: int) -> "Conversation":
        """The same conversation with one of its images only: the model takes one at a time."""
        if not 0 <= index < len(self.images):
            raise IndexError(f"image {index} of {len(self.images)}")
        messages, seen = [], 0
        for message in self.messages:
            parts: list[TextPart | ImagePart] = []
            for part in message.parts:
                if isinstance(part, TextPart) or seen == index:
                    parts.append(part)
                seen += isinstance(part, ImagePart)
            messages.append(Message(message.role, tuple(parts)))
        return Conversation(tuple(messages))

    def per_image(self) -> tuple["Conversation", ...]:
        """A conversation for each image, to be judged one by one (unsafe wins); itself if there is at most one."""
        count = len(self.images)
        return (self,) if count <= 1 else tuple(self.for_image(index) for index in range(count))


def _role_refusal(role: object) -> str:
    if isinstance(role, str) and role in ("system", "developer"):
        return (
            f"the role is {role}: Llama Guard judges what users and assistants say and has no system role; "
            "leave the message out, or put what matters of it into a policy's descriptions"
        )
    return f"the role is {role!r}, expected 'user' or 'assistant'"


def _located(number: int, text: object) -> TextPart:
    try:
        return TextPart(text)  # type: ignore[arg-type]  # which it checks
    except ConversationError as cause:
        raise ConversationError(f"message {number}: {cause}") from cause


def _unwrapped(value: object) -> object:
    """The messages of a request's body."""
    if not isinstance(value, dict):
        return value
    if "messages" not in value:
        raise ConversationError("expected a list of messages, or an object with 'messages'")
    check_keys(value, CONVERSATION_KEYS, "the object around the messages")
    return value["messages"]


def _kind(part: Mapping[Any, Any]) -> str:
    kind = part.get("type")
    if not (isinstance(kind, str) and kind in (*_TEXT_TYPES, *_IMAGE_TYPES, _REFUSAL_TYPE)):
        raise ConversationError(f"the content part type {kind!r} is unknown, expected 'text' or 'image_url'")
    return kind


def _source(part: Mapping[Any, Any], kind: str) -> object:
    """What names the image of a part: what stands under the one key, or under ``url`` in an object there."""
    named = [part[key] for key in ("image_url", "image") if part.get(key) is not None]
    if len(named) > 1:
        raise ConversationError(f"a {kind!r} part names two images")
    source = named[0] if named else None
    if isinstance(source, Mapping):
        check_keys(source, SOURCE_KEYS, f"the object in a {kind!r} part")
        source = source.get("url")
    if source is None:
        raise ConversationError(f"a {kind!r} part names no image")
    return source


def _message(number: int, entry: object, reader: "_MessageReader") -> Message:
    try:
        return reader.message(entry)
    except (ConversationError, ImageError) as cause:
        raise ConversationError(f"message {number}: {cause}") from cause


@dataclass(frozen=True)
class _MessageReader:
    """Reads messages; `Conversation.from_messages` says what they look like."""

    base_dir: Path | None
    allow_files: bool

    def message(self, entry: object) -> Message:
        """One message."""
        if not isinstance(entry, Mapping):
            raise ConversationError(f"found {type(entry).__name__}, expected an object with a role and content")
        role = entry.get("role")
        if not (isinstance(role, str) and role in ("user", "assistant")):
            raise ConversationError("the role is missing" if role is None else _role_refusal(role))
        check_keys(entry, MESSAGE_KEYS, "the message")
        content, refusal = entry.get("content"), entry.get("refusal")
        if refusal is None:
            return Message(role, self.parts(content))  # type: ignore[arg-type]  # one of the two
        if role != "assistant":
            raise ConversationError("a user message has a 'refusal', which only the assistant can give")
        return Message("assistant", (*(() if content is None else self.parts(content)), TextPart(refusal)))

    def parts(self, content: object) -> tuple[TextPart | ImagePart, ...]:
        """The parts of a message's content; blank text next to an image is left out."""
        if content is None:
            raise ConversationError("the content is missing")
        if isinstance(content, str):
            return (TextPart(content),)
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            raise ConversationError(f"the content is {type(content).__name__}, expected a string or a list of parts")
        if len(content) == 0:
            raise ConversationError("the content is empty")
        has_image = any(isinstance(part, Mapping) and _kind(part) in _IMAGE_TYPES for part in content)
        read = (self.part(part, may_be_blank=has_image) for part in content)
        return tuple(part for part in read if part is not None)

    def part(self, part: object, *, may_be_blank: bool) -> TextPart | ImagePart | None:
        """One part; None for blank text that does not matter."""
        if not isinstance(part, Mapping):
            raise ConversationError(f"a content part is {type(part).__name__}, expected an object with a type")
        kind = _kind(part)
        if kind in _IMAGE_TYPES:
            check_keys(part, IMAGE_KEYS, f"a {kind!r} part")
            return ImagePart(self.image(_source(part, kind)))
        if kind == _REFUSAL_TYPE:
            check_keys(part, REFUSAL_KEYS, f"a {kind!r} part")
            return TextPart(part.get("refusal"))  # type: ignore[arg-type]  # which it checks
        check_keys(part, TEXT_KEYS, f"a {kind!r} part")
        if "text" not in part:
            raise ConversationError(f"a {kind!r} part has no 'text'")
        text = part["text"]
        return None if may_be_blank and isinstance(text, str) and not text.strip() else TextPart(text)

    def image(self, source: object) -> ImageSource:
        """The image that a part names: a data URL's bytes, a path, or what was handed in."""
        if isinstance(source, bytes | Image.Image | np.ndarray):
            return source
        if not isinstance(source, str | os.PathLike):
            raise ConversationError(f"an image is {type(source).__name__}, expected a data URL or a path")
        if not isinstance(source, str) or not _URL.match(source):
            return self.file(Path(source))
        scheme = source.partition(":")[0].lower()
        if scheme == "data":
            return decode_data_url(source)
        if scheme in {"http", "https"}:
            raise ConversationError(
                "an image is on the network, and nothing is ever fetched: give a data URL or a file instead"
            )
        if scheme != "file":
            raise ConversationError(f"an image has a {scheme}: URL, expected a data URL or a file")
        try:
            parts = urlsplit(source)
        except ValueError as cause:
            raise ConversationError(f"an image's file: URL is malformed: {cause}") from cause
        if parts.netloc not in {"", "localhost"}:
            raise ConversationError(f"an image is on the host {parts.netloc}, and nothing is ever fetched")
        if parts.query or parts.fragment:
            raise ConversationError("an image's file: URL has a '?' or '#' in it: write %3F or %23 in a file's name")
        return self.file(Path(url2pathname(parts.path)))

    def file(self, path: Path) -> Path:
        """A path that is relative to the conversation's directory."""
        if not self.allow_files:
            raise ConversationError("an image is named by a path, which is not allowed here: give a data URL")
        return path if self.base_dir is None else self.base_dir / path
