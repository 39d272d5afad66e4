"""Text of samples: what a page or a Markdown reader shows is what the sample says."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from visionward.compare.sample_text import markdown_code, markdown_text, visible

SEEN = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=60)


def _inline(text):
    paragraph = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert [token.type for token in paragraph] == ["paragraph_open", "inline", "paragraph_close"]
    return paragraph[1].children


@given(st.text())
def test_nothing_invisible_is_left(text):
    assert all(unicodedata.category(character)[0] != "C" for character in visible(text, None))
    assert len(visible(text).splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", r"a\u202eb"),
        ("a\u200bb\x00", r"a\u200bb\u0000"),
        ("\U000e0041", r"\U000e0041"),
        ("two\r\nlines\rand\nmore\tx", "two\u23celines\u23ceand\u23cemore x"),
        ("a\u2028b", r"a\u2028b"),
        ("\u00e9 \u4e2d \U0001f600", "\u00e9 \u4e2d \U0001f600"),
    ],
)
def test_what_is_shown(text, shown):
    assert visible(text, None) == shown


def test_long_text_is_cut():
    assert visible("x" * 500) == "x" * 240 + " ..."
    assert visible("x" * 240) == "x" * 240


@given(SEEN)
def test_a_code_span_is_the_text(text):
    (only,) = _inline(f"a {markdown_code(text, None)} b")[1:-1]
    assert only.type == "code_inline"
    assert only.content.strip() == text.strip()


@given(SEEN)
def test_a_code_span_stays_in_its_cell(text):
    table = f"| a | b |\n| --- | --- |\n| {markdown_code(text, None, cell=True)} | end |\n"
    tokens = MarkdownIt("commonmark").enable("table").parse(table)
    cells = [token for token in tokens if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["a", "b"]
    assert len(cells) == 4
    assert cells[3].content == "end"
    assert [child.type for child in cells[2].children] == ["code_inline"]
    assert cells[2].children[0].content.strip() == text.strip()


@given(SEEN)
def test_our_own_sentences_are_text_alone(text):
    found = _inline(f"It is {markdown_text(text)}.")
    assert {child.type for child in found} <= {"text", "text_special"}
