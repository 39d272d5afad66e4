"""Text of samples in a report: data that others wrote, which must change neither the page nor the order of its text."""

import re
import unicodedata

MAX_CHARACTERS = 240
# Controls, formats (what turns the direction of text around), surrogates, private use, line and paragraph separators.
_ESCAPED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_LINE_BREAKS = re.compile(r"\r\n|\r|\n")
# Punctuation that Markdown reads as markup anywhere in a line; an underscore inside a word is none.
_MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def visible(text: str, limit: int | None = MAX_CHARACTERS) -> str:
    r"""Text as one line, cut to a number of characters; what cannot be seen is written as an escape (``\u202e``)."""
    shown = "".join(map(_shown, _LINE_BREAKS.sub("\u23ce", text)))
    return shown if limit is None or len(shown) <= limit else f"{shown[:limit].rstrip()} ..."


def _shown(character: str) -> str:
    if character == "\t":
        return " "
    if unicodedata.category(character) not in _ESCAPED:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def markdown_text(text: str) -> str:
    """Our own sentences, which name files and models, as Markdown text."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", visible(text, None))


def markdown_code(text: str, limit: int | None = MAX_CHARACTERS, *, cell: bool = False) -> str:
    """What others wrote as a code span, in which nothing is markup.

    Args:
        text: the text.
        limit: number of characters that are shown; None for all.
        cell: whether the span is in a cell of a table, where a bar must be escaped.
    """
    shown = visible(text, limit)
    if cell:
        shown = shown.replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if shown[:1] in ("", "`", " ") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{padding}{shown}{padding}{fence}"
