"""Text for a terminal, wrapped at spaces alone: words, options and paths stay whole.

Lines that go into a file or a pipe are left as they are, and so are lines that begin with four spaces: commands.
"""

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from textwrap import TextWrapper
from typing import TextIO

import click

# What stands in for characters at which no line may end, until the text is wrapped.
_HYPHEN, _SPACE = "\N{NON-BREAKING HYPHEN}", "\N{NO-BREAK SPACE}"
_COMMAND_INDENT = " " * 4
_STYLED = re.compile(r"(?:\x1b\[[0-9;]*m)+([^\x1b]+)\x1b\[0m")
_COMMAND = re.compile(r"`[^`]*`")
_QUANTITY = re.compile(r"(?<=\d) (?=(?:[mµ]?s|min|h|[GMk]B|bytes?|tiles?|tokens?|layers?|pixels|%)(?!\w))")
_LABEL = re.compile(r"\s*\S+(?: \S+)*\s{2,}(?=\S)")
_MIN_COLUMNS = 30
_MAX_INDENT = 4
# Names of options in the left column have this share of a narrow terminal.
_NARROW_COLUMNS, _NARROW_SHARE = 60, 3


class HelpFormatter(click.HelpFormatter):
    """Help that keeps words with hyphens whole, and fits terminals that are narrower than click expects."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        if width is None:
            columns = shutil.get_terminal_size().columns
            width = max(min(columns, max_width or columns), _MIN_COLUMNS) - 2
        super().__init__(indent_increment, width, max_width)

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write two columns."""
        if self.width < _NARROW_COLUMNS:
            col_max = self.width // _NARROW_SHARE
        super().write_dl([(name, text.replace("-", _HYPHEN)) for name, text in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        """The help."""
        return super().getvalue().replace(_HYPHEN, "-")


class Context(click.Context):
    """A click context whose help is formatted so."""

    formatter_class = HelpFormatter


def echo_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines, wrapped if they go to a terminal that is narrower."""
    columns = terminal_columns(sys.stderr if err else sys.stdout)
    if columns is not None:
        lines = [part for line in lines for part in wrapped(line, columns)]
    click.echo("".join(f"{line}\n" for line in lines), nl=False, err=err)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads what is written to a stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def terminal_columns(stream: TextIO) -> int | None:
    """The width of the terminal that a stream writes to; None if it writes to a file or a pipe."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def wrapped(line: str, columns: int) -> Iterator[str]:
    """A line as lines of at most so many columns, if its words allow it.

    Commands in backquotes stay on one line, so that they can be copied, and so do numbers with their units. What
    follows a label and two spaces, or the indentation, is indented alike on every line.
    """
    plain = click.unstyle(line)
    if len(plain) <= columns or line.startswith(_COMMAND_INDENT):
        yield line
        return
    # Colours take no room: they are put back when the text is wrapped.
    styled = _STYLED.search(line)
    for part in _wrapped_plain(plain, columns):
        if styled is not None and styled[1] in part:
            yield part.replace(styled[1], styled[0], 1)
            styled = None
        else:
            yield part


def _wrapped_plain(line: str, columns: int) -> Iterator[str]:
    found = _LABEL.match(line)
    start = found.end() if found else len(line) - len(line.lstrip())
    label, text = line[:start], _QUANTITY.sub(_SPACE, line[start:])
    text = _COMMAND.sub(lambda command: command[0].replace(" ", _SPACE), text)
    indent = start
    if start > columns // 2 or start + max(map(len, text.split(" "))) > columns:
        indent = min(start, _MAX_INDENT)
        if label.strip():
            yield label.rstrip()
            label = " " * indent
    wrapper = TextWrapper(
        width=columns,
        initial_indent=label,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (part.replace(_SPACE, " ") for part in wrapper.wrap(text))
