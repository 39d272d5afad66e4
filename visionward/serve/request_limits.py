"""What one request may have, and how many may wait."""

from dataclasses import dataclass

DEFAULT_MAX_WAITING = 32


@dataclass(frozen=True)
class RequestLimits:
    """Limits on one request.

    Attributes:
        max_body_bytes: bytes of the body, with its images in base64.
        max_messages: messages of a conversation, or inputs of a moderation.
        max_images: images in all of them.
    """

    max_body_bytes: int = 32 * 2**20
    max_messages: int = 256
    max_images: int = 8
