"""The keys that a conversation may have at each level, and the values that they may have.

Content under a key that is not read would pass without being judged. This is therefore an allow list: a key is either
read and judged, or it is one that OpenAI's APIs document and clients send along, with a value that cannot hold content.
Any other key is an error that names it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from visionward.errors import ConversationError

# Whether a key may have a value.
_Allowed = Callable[[object], bool]


def _read(_: object) -> bool:
    """For keys whose values are read and judged: the reader checks them."""
    return True


def _nothing(value: object) -> bool:
    """Null or an empty list, which clients send for what is absent. Never takes the truth value of an array."""
    return value is None or (isinstance(value, list | tuple) and len(value) == 0)


def _one_of(*words: str) -> _Allowed:
    return lambda value: value is None or (isinstance(value, str) and value in words)


def _matching(pattern: str) -> _Allowed:
    expression = re.compile(pattern)
    return lambda value: value is None or (isinstance(value, str) and expression.fullmatch(value) is not None)


_DETAIL = _one_of("low", "high", "auto", "original")

# The body of a request: the messages and the model's name, which is not part of the prompt.
CONVERSATION_KEYS: Mapping[str, _Allowed] = {"messages": _read, "model": _matching(r"[A-Za-z0-9._:/@-]{1,200}")}

# OpenAI's models see a name, but Llama Guard's prompt has none. An id is a short prefix and hexadecimal digits, which
# cannot spell words.
MESSAGE_KEYS: Mapping[str, _Allowed] = {
    "role": _read,
    "content": _read,
    "refusal": _read,
    "type": _one_of("message"),
    "status": _one_of("in_progress", "completed", "incomplete"),
    "id": _matching(r"(?:[a-z]{1,8}_)?[0-9A-Fa-f-]{1,64}"),
    "name": _nothing,
    "annotations": _nothing,
    "audio": _nothing,
    "function_call": _nothing,
    "reasoning": _nothing,
    "reasoning_content": _nothing,
    "tool_call_id": _nothing,
    "tool_calls": _nothing,
}

TEXT_KEYS: Mapping[str, _Allowed] = {"type": _read, "text": _read, "annotations": _nothing, "logprobs": _nothing}

REFUSAL_KEYS: Mapping[str, _Allowed] = {"type": _read, "refusal": _read}

IMAGE_KEYS: Mapping[str, _Allowed] = {
    "type": _read,
    "image_url": _read,
    "image": _read,
    "detail": _DETAIL,
    "file_id": _nothing,
}

# The object around the URL of an image.
SOURCE_KEYS: Mapping[str, _Allowed] = {"url": _read, "detail": _DETAIL}


def check_keys(entry: Mapping[Any, Any], allowed: Mapping[str, _Allowed], what: str) -> None:
    """Check that an object has nothing that would not be judged.

    Args:
        entry: the object.
        allowed: one of the tables above.
        what: the object in words, for error messages.

    Raises:
        ConversationError: the object has a key that is not allowed, or a value that is not allowed for its key.
    """
    for key, value in entry.items():
        check = allowed.get(key) if isinstance(key, str) else None
        if check is None:
            raise ConversationError(f"{what} has the key {_shown(key)}, whose value would not be judged: remove it")
        if not check(value):
            raise ConversationError(
                f"{what} has {_shown(value)} under the key {key!r}, which would not be judged: remove it"
            )


def _shown(value: object) -> str:
    """A key or value for an error message: text is shortened, anything else is named by its type."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return repr(value if len(value) <= 60 else value[:57] + "...")
