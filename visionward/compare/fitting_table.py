"""Tables on a terminal that may be too narrow for them."""

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNLIMITED = 10_000


class FittingTable:
    """A table whose cells are never cut: if it does not fit the terminal, something else is shown.

    Args:
        table: the table.
        narrow: what is shown on a terminal that is too narrow.
        wrap: whether cells may be wrapped between words to make the table fit.
    """

    def __init__(self, table: Table, narrow: RenderableType, *, wrap: bool = False) -> None:
        self._table, self._narrow, self._wrap = table, narrow, wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or what is shown instead."""
        needed = Measurement.get(console, options.update(width=_UNLIMITED), self._table)
        fits = (needed.minimum if self._wrap else needed.maximum) <= options.max_width
        yield self._table if fits else self._narrow


def words_table(heading: tuple[str, ...], right: tuple[str, ...], rows: list[list[Text]]) -> Table:
    """A table of words, whose columns are wide enough for their longest word.

    Args:
        heading: names of the columns.
        right: those that are aligned to the right.
        rows: cells.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(heading):
        words = [word for text in (name, *(row[place].plain for row in rows)) for word in text.split()]
        table.add_column(name, justify="right" if name in right else "left", min_width=max(map(len, words)))
    for row in rows:
        table.add_row(*row)
    return table
