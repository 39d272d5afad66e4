"""One message of a conversation: its role, texts and images."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from visionward.errors import ConversationError
from visionward.runtime.guard.plain_text import checked_text
from visionward.runtime.images.images import ImageSource

Role: TypeAlias = Literal["user", "assistant"]


@dataclass(frozen=True)
class TextPart:
    """Text in a message.

    Raises:
        ConversationError: the text is blank or contains a character that no tokenizer can read.
    """

    text: str

    def __post_init__(self) -> None:
        checked_text(self.text, "the text", ConversationError)


@dataclass(frozen=True, eq=False)
class ImagePart:
    """An image in a message. It is not decoded yet."""

    source: ImageSource


@dataclass(frozen=True)
class Message:
    """What one side says in one turn.

    Attributes:
        role: who speaks.
        parts: texts and images in order. Empty only in results of `Conversation.for_image`.

    Raises:
        ConversationError: the role is unknown, or an assistant message has an image.
    """

    role: Role
    parts: tuple[TextPart | ImagePart, ...]

    def __post_init__(self) -> None:
        if self.role not in ("user", "assistant"):
            raise ConversationError(f"the role is {self.role!r}, expected 'user' or 'assistant'")
        if self.role == "assistant" and self.images:
            raise ConversationError("an assistant message has an image: the model judges images of user messages only")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in order."""
        return tuple(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The images in order."""
        return tuple(part.source for part in self.parts if isinstance(part, ImagePart))
