"""Text that a prompt can hold."""

import re

from visionward.errors import VisionwardError

# llama.cpp takes UTF-8 with a length, so a NUL would pass its tokenizer, but it ends the text in every C string on
# the way. A lone surrogate has no UTF-8 form at all.
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


def checked_text(value: object, what: str, error: type[VisionwardError]) -> str:
    """A value that must be text for a prompt.

    Args:
        value: what was given.
        what: its name in the message, such as ``the text``.
        error: the class of the error.

    Raises:
        VisionwardError: of the class ``error``: the value is no string, is blank, or contains a character that no
            tokenizer can read.
    """
    if not isinstance(value, str):
        raise error(f"{what} is {type(value).__name__}, expected text")
    if not value.strip():
        raise error(f"{what} is empty")
    if bad := _UNUSABLE.search(value):
        character = "a NUL character" if bad[0] == "\x00" else "a lone surrogate"
        raise error(
            f"{what} contains {character} (U+{ord(bad[0]):04X}) at position {bad.start()}, which no tokenizer can read"
        )
    return value
