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
_COMMAND = re.compile(r"`[^`]*`")
_LABEL = re.compile(r"\s*\S+(?: \S+)*\s{2,}(?=\S)")
_MIN_COLUMNS = 30
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
    stream = sys.stderr if err else sys.stdout
    if is_terminal(stream):
        columns = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in wrapped(line, columns)]
    click.echo("".join(f"{line}\n" for line in lines), nl=False, err=err)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads what is written to a stream."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def wrapped(line: str, columns: int) -> Iterator[str]:
    """A line as lines of at most so many columns, if its words allow it.

    Commands in backquotes stay on one line, so that they can be copied. What follows a label and two spaces, or the
    indentation, is indented alike on every line.
    """
    if len(click.unstyle(line)) <= columns or line.startswith(_COMMAND_INDENT):
        yield line
        return
    label = _LABEL.match(line)
    indent = label.end() if label else len(line) - len(line.lstrip())
    wrapper = TextWrapper(
        width=columns,
        subsequent_indent=" " * (indent if indent <= columns // 2 else 4),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _SPACE), line)
    # Spaces between a label and its text are no place to break.
    start = 0 if label is None else label.end()
    whole = whole[:start].replace(" ", _SPACE) + whole[start:]
    yield from (part.replace(_SPACE, " ") for part in wrapper.wrap(whole))
