"""The messages of a request as a conversation for the guard: limits, remote images, what is left out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.message_reader import is_system_message
from visionward.serve.api_error import ApiError, InvalidRequestError
from visionward.serve.request_limits import RequestLimits

_IMAGE_KEYS = ("image_url", "image")
MERGED = "consecutive messages of one role were judged as one message."


@dataclass(frozen=True)
class JudgedMessages:
    """Messages whose images may still have to be downloaded.

    Attributes:
        messages: in OpenAI's form.
        param: where they are in the request, for errors.
    """

    messages: tuple[object, ...]
    param: str

    @classmethod
    def read(cls, messages: object, param: str, limits: RequestLimits) -> "JudgedMessages":
        """Check that messages are a list within the limits.

        Raises:
            InvalidRequestError: they are no list, or none.
            ApiError: there are more messages or images than a request may have (status 413).
        """
        if messages is None:
            raise InvalidRequestError(f"the parameter {param!r} is missing.", param, "missing_required_parameter")
        if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
            raise InvalidRequestError(f"{param!r} is not an array.", param, "invalid_type")
        if not messages:
            raise InvalidRequestError(f"{param!r} is empty, expected at least one entry.", param, "empty_array")
        check_count(len(messages), limits.max_messages, "messages", param)
        found = cls(tuple(messages), param)
        check_count(sum(1 for _ in found._image_parts()), limits.max_images, "images", param)
        return found

    @property
    def remote_urls(self) -> tuple[str, ...]:
        """The network URLs of images, each once."""
        urls = (_url(part) for part in self._image_parts())
        return tuple(dict.fromkeys(url for url in urls if url is not None and _is_remote(url)))

    def conversation(self, downloaded: Mapping[str, bytes]) -> Conversation:
        """The conversation that is judged, without system messages.

        Args:
            downloaded: the bytes of every image in ``remote_urls``.

        Raises:
            ConversationError: the messages are not of OpenAI's form, or hold what would not be judged.
            ImageError: an image is no usable data URL.
        """
        messages = [_with_images(message, downloaded) for message in self.messages]
        whole = Conversation.from_messages(messages, allow_files=False, merge_turns=True, system="drop")
        turns = sum(not is_system_message(message) for message in messages)
        if turns == len(whole.messages):
            return whole
        return Conversation(whole.messages, (*whole.warnings, MERGED))

    def _image_parts(self) -> Iterator[Mapping[str, Any]]:
        for message in self.messages:
            content = message.get("content") if isinstance(message, Mapping) else None
            if isinstance(content, list) and not is_system_message(message):
                for part in content:
                    if isinstance(part, Mapping) and any(part.get(key) is not None for key in _IMAGE_KEYS):
                        yield part


def check_count(count: int, maximum: int, what: str, param: str) -> None:
    """Check a number against a limit.

    Raises:
        ApiError: it is higher (status 413).
    """
    if count > maximum:
        raise ApiError(
            413,
            f"the request has {count} {what}; this server takes up to {maximum}.",
            param=param,
            code="request_too_large",
        )


def _url(part: Mapping[str, Any]) -> str | None:
    for key in _IMAGE_KEYS:
        value = part.get(key)
        url = value.get("url") if isinstance(value, Mapping) else value
        if isinstance(url, str):
            return url
    return None


def _is_remote(url: str) -> bool:
    return url.partition(":")[0].lower() in ("http", "https")


def _with_images(message: Any, downloaded: Mapping[str, bytes]) -> Any:
    """The message with downloaded images in place of their URLs."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not downloaded or not isinstance(content, list):
        return message
    return {**message, "content": [_with_image(part, downloaded) for part in content]}


def _with_image(part: Any, downloaded: Mapping[str, bytes]) -> Any:
    url = _url(part) if isinstance(part, Mapping) else None
    if url is None or url not in downloaded:
        return part
    kept = {key: value for key, value in part.items() if key not in _IMAGE_KEYS}
    return kept | {"type": "image", "image": downloaded[url]}
