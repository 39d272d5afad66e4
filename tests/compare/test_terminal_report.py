"""The report on terminals of every width."""

import io
import re

import pytest
from rich.console import Console

from visionward.compare.terminal_report import terminal_report


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_nothing_is_cut_on_the_terminal(written, width):
    """Words are whole at every width, and a table that does not fit is named instead."""
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_report(written[1]))
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "\u2026" not in text
    for row in written[1].sets[0].overview:
        assert {word for cell in row.cells for word in cell.split()} <= set(re.split(r"[\s;:]+", text))
    assert ("simulated: 240 samples" in text) is ("misses" in text)
    assert (width >= 160) is ("see report.md" not in text)


def test_the_terminal_table(written):
    stream = io.StringIO()
    Console(file=stream, width=160).print(terminal_report(written[1]))
    text = stream.getvalue()
    assert text.index("equivalent within 5 points") < text.index("q4_0 is worse") < text.index("precision")
    assert "Quoted" in text
    assert "not comparable" in text
