"""The report as Markdown, read by a Markdown parser."""

import dataclasses
import itertools
import re

from markdown_it import MarkdownIt

from visionward.compare.datasets import Dataset
from visionward.compare.report import make_report
from visionward.compare.report_files import write_report
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample


def _tables(tokens):
    """The tables of parsed Markdown, as rows of cells."""
    tables = []
    for token, following in itertools.pairwise(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            tables[-1][-1].append("".join(child.content for child in following.children))
    return tables


def test_markdown_says_what_the_page_says(written):
    text = (written[0] / "report.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    # Scores are plots alone.
    on_page = [text.rstrip("*") for text in re.findall(r"<h[12]>([^<]+)", html) if text != "Scores"]
    assert headings == [*on_page, "How it was measured"]
    overview, decisions, *_ = _tables(tokens)
    assert overview[0] == ["candidate", "decision", "flips", "size", "time"]
    assert [row[0] for row in overview[1:]] == ["f16", "q8_0", "q4_0", "general-model"]
    for row, model in zip(decisions[1:], written[1].sets[0].figures.models, strict=True):
        assert row[0] == model.name
        assert row[2].startswith(f"{model.measures['recall'].value:.3f} (")
    assert all(len({len(row) for row in table}) == 1 for table in _tables(tokens))


def test_markdown_is_not_changed_by_what_others_wrote(simulated, tmp_path):
    dataset, results = simulated
    evil = "| x <b>bold</b> `code` ``two`` [a](http://b) ![i](http://c) \\n\\n# Heading\\n- item \u202e ~~s~~ $x$"
    samples = [
        Sample.make(f"{evil} {i}", Conversation.from_prompt(f"{evil} {i}"), unsafe=one.unsafe, group=evil)
        for i, one in enumerate(dataset.samples)
    ]
    changed = Dataset(evil, tuple(samples))
    mapped = [
        dataclasses.replace(
            result,
            judged={new: result.judged[old] for new, old in zip(changed.digests, dataset.digests, strict=True)},
        )
        for result in results
    ]
    report = make_report([changed], mapped, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], mapped)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "\u202e" not in text
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = {child.type for token in tokens for child in token.children or ()}
    assert inline <= {"text", "code_inline", "strong_open", "strong_close", "softbreak", "text_special"}
    assert not any(token.type in ("html_block", "fence", "code_block", "hr") for token in tokens)
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    assert "Heading" not in headings
