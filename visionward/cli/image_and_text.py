"""Telling the image from the text among arguments that do not say which they are.

A missing photo must never be judged as text, so a single word is the text only next to an existing file.
"""

import difflib
import re
import shlex
from itertools import islice
from pathlib import Path

import click

from visionward.cli.standard_input import DASH, InputFile

_IMAGE_SUFFIX = re.compile(
    r"\.(jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|heif|avif|ico|jp2|jxl|p[pgn]m|tga|svg|pdf|psd|dng|cr2|nef|arw|mp4|mov)\Z",
    re.IGNORECASE,
)
# A file as similarly named as this is what was meant.
_SIMILARITY = 0.85
_MAX_NAMES = 2000
_MAX_SHOWN = 60


def sort_arguments(arguments: tuple[str, ...]) -> tuple[Path | None, str | None]:
    """The image and the text among at most two arguments, in whatever order.

    An existing file is the image. Several words are the text, and so is a single word next to an image, unless they
    end like the name of an image, are a URL or a folder, or are almost the name of a file: that image does not exist.

    Raises:
        click.UsageError: if an argument may be either, or there are two of one kind.
    """
    if DASH in arguments:
        raise click.UsageError("- may be an image or a text on standard input: say --image - or --prompt -")
    if not all(arguments):
        raise click.UsageError("an argument is empty")
    images = [argument for argument in arguments if _is_file(argument)]
    texts = [argument for argument in arguments if argument not in images]
    for text in texts:
        _refuse_what_may_be_an_image(text, word_is_text=bool(images))
    for kind, found in (("images", images), ("texts", texts)):
        if len(found) > 1:
            shown = " and ".join(map(repr, found))
            raise click.UsageError(f"{shown} are {len(found)} {kind}; expected one image and one text")
    image = InputFile().convert(images[0], None, None) if images else None
    return image, texts[0] if texts else None


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).exists() and not Path(argument).is_dir()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _refuse_what_may_be_an_image(argument: str, *, word_is_text: bool) -> None:
    several_words = len(argument.split()) > 1
    similar = _similar_file(argument)
    is_path = _IMAGE_SUFFIX.search(argument) or (not several_words and ("://" in argument or _is_folder(argument)))
    if (several_words or word_is_text) and similar is None and not is_path:
        return
    shown, quoted = repr(argument), shlex.quote(argument)
    if len(argument) > _MAX_SHOWN:
        shown, quoted = f"{argument[:_MAX_SHOWN]!r}...", "TEXT"
    wrong = f"{shown} is not a file"
    if "://" in argument and not several_words:
        wrong = f"{shown} is a URL, and images are not downloaded"
    elif _is_folder(argument):
        wrong = f"{shown} is a folder"
    elif similar is not None:
        wrong += f"; did you mean {shlex.quote(similar)}?"
    raise click.UsageError(f"{wrong}{'' if wrong.endswith('?') else ';'} if it is text, say --prompt {quoted}")


def _is_folder(argument: str) -> bool:
    try:
        return Path(argument).is_dir()
    except (OSError, ValueError):
        return False


def _similar_file(argument: str) -> str | None:
    """The file that a mistyped path means, if there is one in its folder."""
    path = Path(argument)
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), _MAX_NAMES)]
    except (OSError, ValueError):
        return None
    found = difflib.get_close_matches(path.name, names, 1, _SIMILARITY)
    return str(path.with_name(found[0])) if found else None
