"""The page of a scan's results: what it shows, filters and hides, in a real browser."""

import json
import re

import pytest
from PIL import Image

from visionward.errors import OutputError
from visionward.scan.html_report import report_outputs, write_report
from visionward.scan.inputs import Inputs
from visionward.scan.results import Results

CODE = '</script><script>document.title = "changed"</script><!-- <b>'
COUNT = 400


@pytest.fixture(scope="module")
def page(tmp_path_factory, options):
    """A page of 400 results, which nobody judged: scores rise with the number, every tenth is not judged."""
    folder = tmp_path_factory.mktemp("report")
    for number in range(COUNT):
        path = folder / "photos" / f"{number % 4}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The last two have the same content.
        Image.new("RGB", (8, 8), (min(number, COUNT - 2) % 256, number // 256, 0)).save(path)
    inputs = Inputs([folder / "photos"], lambda _: CODE)
    results = Results(folder / "results.jsonl", options.key)
    for item in inputs:
        number = int(item.name[-7:-4])
        score = number / COUNT
        judged = {
            "verdict": "unsafe" if score >= 0.5 else "safe",
            "score": score,
            "categories": [{"code": f"S{1 + number % 13}", "score": 0.5}] if score >= 0.5 else [],
            "warnings": [],
            "error": None,
        }
        if number % 10 == 3:
            judged = {"verdict": None, "error": f"{CODE} is no image"}
        read = item.read()
        results.append(read, options.item_id(read), judged)
    outputs = report_outputs(folder / "report.html", ())
    write_report(outputs, inputs, results, options, ["photos", CODE])
    results.close()
    return folder / "report.html"


def _scores(browser):
    text = browser.evaluate("[...document.querySelectorAll('#cards .badge')].map((one) => one.textContent)")
    return [float(one.split()[1]) for one in text if one[0] != "N"]


def test_the_page_asks_for_nothing_and_runs_no_code_of_others(browser, page):
    before = len(browser.requests)
    browser.messages.clear()
    browser.open(page.as_uri())
    assert browser.text("#counts") == f"{COUNT} samples: 180 safe, 180 unsafe, 40 not judged"
    assert browser.evaluate("document.title").startswith("visionward: Scan of photos, </script>")
    assert browser.text("#cards .text") == CODE
    assert browser.messages == []
    assert all(url.startswith(("file:", "data:")) for url in browser.requests[before:])
    assert "default-src 'none'" in page.read_text()


def test_pictures_are_blurred_until_they_are_clicked(browser, page):
    browser.open(page.as_uri())
    blur = "getComputedStyle(document.querySelector('#cards .thumb img')).filter"
    assert re.fullmatch(r"blur\(\d+px\)", browser.evaluate(blur))
    browser.click("#cards .thumb")
    assert browser.evaluate(blur) == "none"
    assert browser.evaluate("document.querySelector('#cards .thumb').getAttribute('aria-pressed')") == "true"
    # With the keyboard alone.
    browser.press(" ")
    assert browser.evaluate(blur) != "none"
    browser.press("Tab")
    browser.press("Enter")
    pressed = "[...document.querySelectorAll('#cards .thumb')].map((one) => one.getAttribute('aria-pressed'))"
    assert browser.evaluate(pressed)[:3] == ["false", "true", "false"]


def test_filters_and_order(browser, page):
    browser.open(page.as_uri())
    scores = _scores(browser)
    assert len(scores) == 60
    assert scores == sorted(scores, reverse=True)
    set_field = (
        "(() => {{ const one = document.forms[0].elements.{}; one.value = '{}'; "
        "one.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )
    browser.click("input[value=unsafe]")
    assert max(_scores(browser)) < 0.5
    assert browser.text("#position") == "1 to 60 of 220"
    browser.click("input[value=safe]")
    assert browser.text("#position") == "1 to 40 of 40"
    assert browser.text("#cards .badge") == "NOT JUDGED"
    assert browser.text("#cards li p:nth-of-type(3)") == f"{CODE} is no image"
    browser.click("input[value=unsafe]")
    browser.click("input[value='not judged']")
    browser.evaluate(set_field.format("category", "S1"))
    expected = [n for n in range(200, COUNT) if n % 13 == 0 and n % 10 != 3]
    assert browser.text("#position") == f"1 to {len(expected)} of {len(expected)}"
    browser.evaluate(set_field.format("folder", str(page.parent / "photos" / "1")))
    expected = [n for n in expected if n % 4 == 1]
    assert _scores(browser) == pytest.approx([n / COUNT for n in reversed(expected)], abs=6e-4)
    browser.evaluate(set_field.format("category", ""))
    browser.evaluate(set_field.format("from", "0.9"))
    assert min(_scores(browser)) >= 0.9
    browser.evaluate(set_field.format("name", "nothing"))
    assert browser.text("#position") == "no sample matches the filters"


def test_pages_are_turned_with_keys(browser, page):
    browser.open(page.as_uri())
    arrow = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Arrow%s', bubbles: true}))"
    browser.evaluate(arrow % "Right")
    assert browser.text("#position") == f"61 to 120 of {COUNT}"
    browser.evaluate(arrow % "Left")
    browser.evaluate(arrow % "Left")
    assert browser.text("#position") == f"1 to 60 of {COUNT}"


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_screen(browser, page, width, dark):
    browser.screen(width, dark)
    browser.open(page.as_uri())
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark


def test_copies_share_a_picture(page):
    text = page.read_text()
    rows = json.loads(text.partition('id="rows">')[2].partition("</script>")[0])
    assert [type(row["picture"]) for row in rows].count(int) == 1
    copy = next(row for row in rows if isinstance(row["picture"], int))
    assert copy["copy"] == rows[copy["picture"]]["name"]


def test_only_a_report_of_a_scan_is_replaced(page, tmp_path):
    report_outputs(page, ()).check()
    other = tmp_path / "page.html"
    other.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(OutputError, match="is another kind of file"):
        report_outputs(other, ()).check()
    assert other.stat().st_size
