"""Facts and figures in columns."""

from collections.abc import Iterator, Sequence


def row(name: str, value: object, width: int = 20) -> str:
    """A name and its value, which begins behind so many characters."""
    return f"{name:<{width}}{value}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(cells[column]) for cells in (head, *rows)) for column in range(len(head))]
    for cells in (head, *rows):
        figures = [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True)]
        yield "   ".join([f"{cells[0]:<{widths[0]}}", *figures]).rstrip()
