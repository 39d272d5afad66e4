"""The keys that a conversation may have at every level, and what their values may be.

Whatever stands in a key that nobody reads is not judged, and would pass. So this is an allow-list: a key is read by the
reader of the conversation, or it is one of those that OpenAI's APIs document and clients send along, with a value that
has no room for content. Anything else is refused, by name.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from visionward.errors import ConversationError

# Whether a value may stand in a key.
_Allowed = Callable[[object], bool]


def _read(_: object) -> bool:
    """For keys whose values are read and judged: their reader checks them."""
    return True


def _nothing(value: object) -> bool:
    """Null or an empty list, as clients spell out what they do not have. Never asks an array for its truth."""
    return value is None or (isinstance(value, list | tuple) and len(value) == 0)


def _one_of(*words: str) -> _Allowed:
    return lambda value: value is None or (isinstance(value, str) and value in words)


def _matching(pattern: str) -> _Allowed:
    expression = re.compile(pattern)
    return lambda value: value is None or (isinstance(value, str) and expression.fullmatch(value) is not None)


_DETAIL = _one_of("low", "high", "auto", "original")

# A request's body is a conversation with the model's name beside it, which no model is shown.
CONVERSATION_KEYS: Mapping[str, _Allowed] = {"messages": _read, "model": _matching(r"[A-Za-z0-9._:/@-]{1,200}")}

# A name is shown to OpenAI's models and to no guard. An id is hexadecimal behind a short prefix: no words fit in.
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

# The object that holds an image's URL.
SOURCE_KEYS: Mapping[str, _Allowed] = {"url": _read, "detail": _DETAIL}


def check_keys(entry: Mapping[Any, Any], allowed: Mapping[str, _Allowed], what: str) -> None:
    """See that an object has nothing that would not be judged.

    Args:
        entry: the object.
        allowed: one of the tables above.
        what: the object in words, for the message.

    Raises:
        ConversationError: it has a key that is not allowed, or a value that its key may not have.
    """
    for key, value in entry.items():
        check = allowed.get(key) if isinstance(key, str) else None
        if check is None:
            raise ConversationError(f"{what} has the key {_shown(key)}, which would not be judged: leave it out")
        if not check(value):
            raise ConversationError(
                f"{what} has {_shown(value)} under the key {key!r}, which would not be judged: leave it out"
            )


def _shown(value: object) -> str:
    """A key or a value in a sentence: text in short, anything else by its type."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return repr(value if len(value) <= 60 else value[:57] + "...")
