"""The conversation that is judged: checked messages, from which the prompt is rendered."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from visionward.errors import ConversationError
from visionward.formats.strict_json import parse_json, read_json
from visionward.names import SystemTreatment
from visionward.runtime.guard.message import ImagePart, Message, TextPart
from visionward.runtime.guard.message_keys import CONVERSATION_KEYS, check_keys
from visionward.runtime.guard.message_reader import MessageReader, is_system_message
from visionward.runtime.images.images import ImageSource


@dataclass(frozen=True)
class Conversation:
    """A conversation whose last message is judged.

    Attributes:
        messages: in order.
        warnings: what was left out of it, one sentence each.

    Raises:
        ConversationError: there are no messages, or user and assistant do not alternate, starting with the user.
    """

    messages: tuple[Message, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_turns(enumerate(self.messages, start=1))
        if not any(message.parts for message in self.messages):
            raise ConversationError("the conversation has neither text nor an image to judge")

    @classmethod
    def from_prompt(
        cls, prompt: str | None, response: str | None = None, image: ImageSource | None = None
    ) -> "Conversation":
        """A user message and, optionally, the assistant's response to it.

        Args:
            prompt: the user's text; may be None or empty if there is an image.
            response: the assistant's text. If given, it is what is judged.
            image: an image in the user message. A string is always a path here.

        Raises:
            ConversationError: there is neither a prompt nor an image, or a text cannot be used.
        """
        parts: list[TextPart | ImagePart] = [] if image is None else [ImagePart(image)]
        blank = isinstance(prompt, str) and not prompt.strip()
        if prompt is not None and not (parts and blank):
            parts.append(_text_part(1, prompt))
        if not parts:
            raise ConversationError("there is neither a prompt nor an image to judge")
        messages = [Message("user", tuple(parts))]
        if response is not None:
            messages.append(Message("assistant", (_text_part(2, response),)))
        return cls(tuple(messages))

    @classmethod
    def from_messages(
        cls,
        messages: object,
        base_dir: str | os.PathLike[str] | None = None,
        *,
        allow_files: bool = True,
        merge_turns: bool = False,
        system: SystemTreatment = "refuse",
    ) -> "Conversation":
        """A conversation from messages in the form of OpenAI's Chat Completions and Responses APIs.

        A message is ``{"role": "user" | "assistant", "content": ...}``. The content is a string or a list of parts:

        - ``{"type": "text", "text": "..."}``; the type may also be ``input_text`` or ``output_text``.
        - ``{"type": "image_url", "image_url": {"url": "..."}}``; the URL may also stand in place of the object, and
          the type may be ``input_image``.
        - ``{"type": "image", "image": ...}`` with any image that `decode_image` accepts.

        A refusal (``{"role": "assistant", "content": null, "refusal": "..."}``, or a part of type ``refusal``) is text
        of the assistant. Any other key is an error, because its value would not be judged. This includes ``name``. The
        exceptions are keys that clients send along without content (see `message_keys`).
        A URL is a ``data:`` URL, a ``file:`` URL or a path. Nothing is ever downloaded.

        Args:
            messages: the list of messages.
            base_dir: the directory that relative paths are relative to; None for the working directory.
            allow_files: whether a path or ``file:`` URL may name an image. A server that judges messages from others
                passes False; otherwise they could have its files opened.
            merge_turns: join consecutive messages of one role into one message. Otherwise they are an error.
            system: ``refuse`` raises an error for a system or developer message. ``drop`` leaves it out unread, and
                the verdict has a warning.

        Raises:
            ConversationError: the messages are not of that form. The error says which one and why.
            ValueError: ``system`` is neither of the two.
        """
        if system not in get_args(SystemTreatment):
            raise ValueError(f"system is {system!r}, expected 'refuse' or 'drop'")
        if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
            raise ConversationError(f"the messages are {type(messages).__name__}, expected a list")
        reader = MessageReader(None if base_dir is None else Path(base_dir), allow_files)
        judged = [
            (number, entry)
            for number, entry in enumerate(messages, start=1)
            if system == "refuse" or not is_system_message(entry)
        ]
        numbered = [(number, reader.read(number, entry)) for number, entry in judged]
        if merge_turns:
            numbered = _merged(numbered)
        # Here the numbers are those of the list that was given; the constructor can only count what is left.
        _check_turns(numbered)
        return cls(tuple(message for _, message in numbered), _dropped(len(messages) - len(judged)))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        allow_files: bool = True,
        merge_turns: bool = False,
        system: SystemTreatment = "refuse",
    ) -> "Conversation":
        """A conversation from a JSON file: a list of messages, or an object with one under ``messages``.

        Besides ``messages`` the object may have a ``model`` name, as in a request, and nothing else. Relative image
        paths are relative to the directory of the file.

        Args:
            path: the file.
            allow_files: see `from_messages`.
            merge_turns: see `from_messages`.
            system: see `from_messages`.

        Raises:
            ConversationError: the file cannot be read, is not a regular file, is larger than 256 MiB, or is not of
                that form. The error names the file.
        """
        value = read_json(path, ConversationError)
        try:
            return cls.from_messages(
                _unwrapped(value), Path(path).parent, allow_files=allow_files, merge_turns=merge_turns, system=system
            )
        except ConversationError as cause:
            raise ConversationError(f"{path}: {cause}") from cause

    @classmethod
    def from_json(
        cls,
        text: str,
        base_dir: str | os.PathLike[str] | None = None,
        *,
        allow_files: bool = True,
        merge_turns: bool = False,
        system: SystemTreatment = "refuse",
    ) -> "Conversation":
        """A conversation from the JSON text that `from_file` reads from a file.

        Args:
            text: the JSON.
            base_dir: see `from_messages`.
            allow_files: see `from_messages`.
            merge_turns: see `from_messages`.
            system: see `from_messages`.

        Raises:
            ConversationError: the text is not of that form.
        """
        value = parse_json(text, ConversationError)
        return cls.from_messages(
            _unwrapped(value), base_dir, allow_files=allow_files, merge_turns=merge_turns, system=system
        )

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """All images in order."""
        return tuple(source for message in self.messages for source in message.images)

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts in order."""
        return tuple(text for message in self.messages for text in message.texts)

    @property
    def judged_role(self) -> Literal["User", "Agent"]:
        """The side that is judged, which is the one that spoke last, by its name in the prompt."""
        return "User" if self.messages[-1].role == "user" else "Agent"

    @property
    def judges_image_alone(self) -> bool:
        """Whether the judged message has no text.

        This is allowed, but the model card says that the model is not meant to judge images alone: callers should warn.
        """
        return not self.messages[-1].texts

    def for_image(self, index: int) -> "Conversation":
        """The same conversation with only one of its images, because the model takes one at a time."""
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
        return Conversation(tuple(messages), self.warnings)

    def per_image(self) -> tuple["Conversation", ...]:
        """One conversation per image, to be judged one by one; itself if it has at most one image."""
        count = len(self.images)
        return (self,) if count <= 1 else tuple(self.for_image(index) for index in range(count))


def _check_turns(numbered: Iterable[tuple[int, Message]]) -> None:
    """Check that user and assistant alternate, starting with the user."""
    previous = None
    for number, message in numbered:
        expected = "assistant" if previous == "user" else "user"
        if message.role == previous:
            raise ConversationError(
                f"message {number}: the role is {message.role}, expected {expected}: user and assistant must "
                "alternate. To join consecutive messages of one role, use merge_turns=True (--merge-turns)"
            )
        if message.role != expected:
            raise ConversationError(
                f"message {number}: the role is {message.role}, expected {expected}: the user must speak first"
            )
        previous = message.role
    if previous is None:
        raise ConversationError("the conversation has no messages")


def _merged(numbered: Iterable[tuple[int, Message]]) -> list[tuple[int, Message]]:
    """Consecutive messages of one role as one, with the number of the first."""
    merged: list[tuple[int, Message]] = []
    for number, message in numbered:
        if merged and merged[-1][1].role == message.role:
            first, before = merged[-1]
            merged[-1] = (first, Message(message.role, (*before.parts, *message.parts)))
        else:
            merged.append((number, message))
    return merged


def _dropped(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    messages = "1 system message was" if count == 1 else f"{count} system messages were"
    return (f"{messages} left out of the conversation and not judged.",)


def _text_part(number: int, text: object) -> TextPart:
    try:
        return TextPart(text)  # type: ignore[arg-type]  # TextPart checks the type
    except ConversationError as cause:
        raise ConversationError(f"message {number}: {cause}") from cause


def _unwrapped(value: object) -> object:
    """The messages in the body of a request."""
    if not isinstance(value, dict):
        return value
    if "messages" not in value:
        raise ConversationError("expected a list of messages, or an object with 'messages'")
    check_keys(value, CONVERSATION_KEYS, "the object around the messages")
    return value["messages"]
