"""``-`` as an option's value: what is on standard input."""

import re
import sys
from typing import Any, Literal

import click

from visionward.cli.model_options import RegularFile
from visionward.errors import ConversationError
from visionward.formats.strict_json import MAX_BYTES

DASH: Literal["-"] = "-"
_LAST_BREAK = re.compile(r"\r?\n\Z")


class InputFile(RegularFile):
    """An existing regular file, or ``-``; ``./-`` is a file of that name."""

    def __init__(self) -> None:
        super().__init__("pipe it into standard input and use -")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path, or the dash itself."""
        return DASH if value == DASH else super().convert(value, param, ctx)


def read_bytes(option: str) -> bytes:
    """What is on standard input, to its end.

    Args:
        option: what it is for, for errors.

    Raises:
        ConversationError: it is closed, empty, or has more than ``MAX_BYTES``, as a device without an end has.
    """
    if sys.stdin is None:
        raise ConversationError(f"{option} is -, and standard input is closed")
    stream = sys.stdin.buffer
    if stream.isatty():
        click.echo(f"Reading {option} from the terminal; an end of file (Ctrl-D, on Windows Ctrl-Z) ends it.", err=True)
    try:
        data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConversationError(f"{option} is -, and standard input cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConversationError(f"{option} is -, and standard input has more than {MAX_BYTES >> 20} MiB")
    if not data:
        raise ConversationError(f"{option} is -, and standard input is empty")
    return data


def read_text(option: str) -> str:
    """A text on standard input, without the line break that it ends with (one, no more) and a byte order mark.

    Raises:
        ConversationError: as ``read_bytes``; or it is blank, or no UTF-8.
    """
    data = read_bytes(option)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversationError(
            f"{option} is -, and standard input is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    if not text.strip():
        raise ConversationError(f"{option} is -, and standard input contains only white space")
    return _LAST_BREAK.sub("", text)
