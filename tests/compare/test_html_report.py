"""The report as a page."""

import dataclasses
import re
import warnings
from html.parser import HTMLParser

import pytest
from simulated_comparison import simulated_results, simulated_samples

from visionward.compare.datasets import Dataset
from visionward.compare.report import make_report
from visionward.compare.report_files import write_report
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample


class _References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag in ("script", "iframe", "link"):
            self.found.append((tag, "", ""))


def test_html_refers_to_nothing_outside(written):
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    parser = _References()
    parser.feed(html)
    for tag, name, value in parser.found:
        assert value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "q4_0 is worse than f16" in html
    # The first thing is one table: candidate, decision, flips, size, time.
    table = html[html.index("<table") : html.index("</table>")]
    assert re.findall(r"<th[^>]*>([^<]+)", table) == ["candidate", "decision", "flips", "size", "time"]
    assert re.findall(r'class="name">([^<]+)', table) == ["f16", "q8_0", "q4_0", "general-model"]
    assert html.index("</table>") < html.index("independent samples") < html.index("Conclusion")
    assert html.count("<svg") >= 4
    assert "data:image/jpeg" in html


def test_html_escapes_what_others_wrote(simulated, tmp_path):
    dataset, results = simulated
    evil = "<script>alert(1)</script> & \u202e'\""
    flipped = next(
        i
        for i, digest in enumerate(dataset.digests)
        if results[0].judged[digest].unsafe != results[2].judged[digest].unsafe
    )
    samples = list(dataset.samples)
    samples[flipped] = Sample.make(evil, Conversation.from_prompt(evil), unsafe=True, group="g")
    changed = Dataset(evil, tuple(samples))
    mapped = [
        dataclasses.replace(
            result, judged={**result.judged, changed.digests[flipped]: result.judged[dataset.digests[flipped]]}
        )
        for result in results
    ]
    report = make_report([changed], mapped, threshold=0.5, margin=0.02)
    write_report(tmp_path, report, [changed], mapped)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_has_every_colour_for_light_and_dark(written):
    """Plots are drawn with the variables of the style sheet alone, and the style sheet has them twice."""
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.+?)\}", style, re.DOTALL))
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert light == dark
    assert used <= light
    for drawing in re.findall(r"<svg.+?</svg>", html, re.DOTALL):
        assert re.match(r'<svg role="img" aria-label="[^"<>]+ against [^"<>]+" ', drawing)
        painted = re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)
        assert painted
        assert all(paint == "none" or paint.startswith("var(--") for paint in painted)


@pytest.mark.parametrize(
    "name", ["price$x^$", "_hidden", r"\frac", "caf\u00e9 \u4e2d", "a\udcffb", "<b>&\u202e", "n" * 300]
)
def test_any_file_name_is_a_model_name(name, tmp_path):
    """Plots take no formula from it, and no report fails after hours of judging."""
    dataset = simulated_samples(40)
    results = simulated_results(tmp_path, dataset, {"f16": (0.0, 100), "q8_0": (1.0, 50)})
    results[1] = dataclasses.replace(results[1], model=dataclasses.replace(results[1].model, name=name))
    report = make_report([dataset], results, threshold=0.5, margin=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(tmp_path, report, [dataset], results)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>&" not in html
    plain = tmp_path / "plain"
    results[1] = dataclasses.replace(results[1], model=dataclasses.replace(results[1].model, name="q8_0"))
    write_report(plain, make_report([dataset], results, threshold=0.5, margin=0.02), [dataset], results)
    # Every legend and axis has the name too.
    texts = [
        len(re.findall(r'id="[^"]*text_\d+"', page)) for page in (html, (plain / "report.html").read_text("utf-8"))
    ]
    assert texts[0] == texts[1] > 50
