"""The page at ``GET /`` in headless Chromium: real clicks, keys, drops and pastes. Skipped without Chromium."""

import base64
import contextlib
import io
import re
import shutil
import subprocess
from importlib import resources
from itertools import product

import chromium
import pytest
from PIL import Image
from running_server import RunningServer, WordGuard, until

from visionward.errors import ComputeError
from visionward.serve.api_keys import ApiKeys
from visionward.serve.web_page import PAGE_FILES

KEY = "sk-0123456789abcdef"
CONTROL = 2
SHIFT = 8


@pytest.fixture
def guard():
    return WordGuard()


@pytest.fixture
def server(guard):
    with RunningServer(guard) as running:
        yield running
        guard.release.set()


@pytest.fixture
def page(browser, server):
    return opened(browser, server)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'it\'s a $HOME "photo".png'
    Image.new("RGB", (30, 20), (0, 90, 160)).save(path)
    return path


def opened(browser, server):
    browser.screen(1400)
    browser.messages.clear()
    browser.requests.clear()
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.until("document.querySelector('#turn-0') !== null")
    return browser


def judged(page):
    page.until("!document.querySelector('#verdict').hidden && document.querySelector('#cancel').hidden")
    return page.text("#verdict")


def failed(page):
    page.until("!document.querySelector('#error').hidden && document.querySelector('#cancel').hidden")
    assert page.evaluate("document.querySelector('#verdict').hidden")
    assert page.evaluate("document.querySelector('#details').hidden")
    return page.text("#error")


def write(page, text, turn=0):
    page.click(f"#turn-{turn}")
    page.type(text)


def test_nothing_comes_from_outside(server):
    for url, (name, media_type) in PAGE_FILES.items():
        status, headers, body = server.request("GET", url)
        assert status == 200
        assert headers["Content-Type"] == media_type
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert body == resources.files("visionward.serve").joinpath("page", name).read_bytes()
        assert set(re.findall(rb"https?://[^\s\"'`$]+", body)) <= {b"http://www.w3.org/2000/svg"}
        assert not re.search(rb"<script>|style=|\son[a-z]+=|innerHTML|eval\(", body)


def test_a_conversation_is_judged(page, server, guard, picture):
    page.until("document.querySelector('#model-line').innerText.includes('guard')")
    write(page, "How do I draw the moon?")
    page.choose_file("#image-input", picture)
    page.until("document.querySelectorAll('#images img').length === 1")
    page.click("#judge")
    assert judged(page) == "✓ SAFE"
    page.click("#add-turn")
    page.type("Something unsafe.")
    assert "Message 2, the assistant's, is judged." in page.text("#form")
    page.click("#judge")
    page.until("document.querySelector('#verdict').className === 'unsafe'")
    assert judged(page) == "✕ UNSAFE: S9 Indiscriminate Weapons, S1 Violent Crimes"
    assert "P(unsafe) 0.930, threshold 0.5" in page.text("#score-line")
    rows = page.evaluate("[...document.querySelectorAll('#categories tr')].map((row) => row.innerText)")
    assert len(rows) == 13
    assert rows[8].split() == ["S9", "Indiscriminate", "Weapons", "(named)", "0.010"]
    assert "Prompt" in page.text("#timings")
    (_, _), (second, options) = guard.history
    assert second.texts == ("How do I draw the moon?", "Something unsafe.")
    assert second.images == (picture.read_bytes(),)
    assert options["category_scores"] is True
    page.click("#turns li:nth-child(2) button")
    page.click("#images button")
    page.click("#category-scores")
    page.click("#judge")
    until(lambda: len(guard.history) == 3)
    third, options = guard.history[2]
    assert (third.texts, third.images) == (("How do I draw the moon?",), ())
    assert options["category_scores"] is False
    assert page.messages == []
    assert {url.split("/")[2] for url in page.requests if not url.startswith("data:")} == {f"127.0.0.1:{server.port}"}


def test_images_are_dropped_and_pasted(page, guard, picture):
    page.drop_files("#drop", picture)
    page.until("document.querySelectorAll('#images img').length === 1")
    data = base64.b64encode(picture.read_bytes()).decode()
    page.click("#turn-0")
    page.evaluate(
        f"(async () => {{ const blob = await (await fetch('/icon.svg')).blob(); const data = new DataTransfer(); "
        f"data.items.add(new File([Uint8Array.from(atob('{data}'), (one) => one.charCodeAt(0))], 'pasted.png', "
        "{type: 'image/png'})); document.activeElement.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, "
        "bubbles: true, cancelable: true})); })()"
    )
    page.until("document.querySelectorAll('#images img').length === 2")
    write(page, "Two pictures.")
    page.click("#judge")
    assert judged(page) == "✓ SAFE"
    assert guard.history[0][0].images == (picture.read_bytes(),) * 2


def test_a_dropped_file_that_is_no_image(page, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x", encoding="utf-8")
    page.drop_files("#drop", path)
    assert failed(page) == "notes.txt is no image."


def test_the_keyboard_alone(page, guard):
    def focused():
        return page.evaluate("document.activeElement.id")

    for expected in ("image-input", "turn-0", "add-turn", "category-scores", "judge"):
        page.press("Tab")
        assert focused() == expected
        outline = "document.activeElement.matches(':focus-visible')"
        assert page.evaluate(outline)
    for _ in range(3):
        page.press("Tab", SHIFT)
    assert focused() == "turn-0"
    page.type("hello")
    page.press("Tab")
    page.press("Enter")
    assert focused() == "turn-1"
    page.type("unsafe")
    page.press("Enter", CONTROL)
    assert judged(page).startswith("✕ UNSAFE")
    assert guard.history[0][0].texts == ("hello", "unsafe")


def test_a_screen_reader_finds_names_and_is_told_the_verdict(page):
    write(page, "hello")
    page.click("#add-turn")
    found = page.accessible()
    for role in ("button", "textbox", "checkbox", "heading", "region", "form", "list"):
        names = [name for kind, name in found if kind == role]
        assert names, role
        assert all(names), role
    assert ("textbox", "User") in found
    assert ("textbox", "Assistant") in found
    assert ("button", "Choose images") in found
    assert ("button", "Remove message 2 and those after it") in found
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelector('#verdict').closest('[aria-live=polite]') !== null")
    assert page.evaluate("document.querySelector('#error').closest('[aria-live=polite]') !== null")


def test_failures_are_shown_and_never_safe(page, server, guard):
    guard.error = ComputeError("the numbers are not finite.")
    write(page, "hello")
    page.click("#judge")
    assert judged(page) == "✓ SAFE"
    write(page, " error")
    page.click("#judge")
    assert "there is no verdict" in failed(page)
    server.server.stop()
    until(lambda: not server._thread.is_alive())
    page.click("#judge")
    page.until("document.querySelector('#error').innerText.includes('reached')")
    assert failed(page) == "The server cannot be reached; there is no verdict."


def test_cancelling(page, guard):
    write(page, "wait")
    page.click("#judge")
    until(lambda: guard.running == 1)
    assert page.text("#progress") == "Classifying …"
    page.click("#cancel")
    assert failed(page) == "Cancelled; there is no verdict."
    until(lambda: guard.cancelled == 1)


def test_a_server_with_keys(browser, guard):
    with RunningServer(guard, keys=ApiKeys((KEY,))) as server:
        page = opened(browser, server)
        page.until("!document.querySelector('#key-field').hidden")
        write(page, "hello")
        page.click("#judge")
        assert "API key" in failed(page)
        page.click("#key")
        page.type(KEY)
        page.click("#judge")
        assert judged(page) == "✓ SAFE"
        assert KEY not in page.text("#curl")
        assert "$VISIONWARD_API_KEY" in page.text("#curl")
        assert 'os.environ["VISIONWARD_API_KEY"]' in page.text("#python")


TEXT = 'It\'s "50 $HOME" `x` \\n \\\\ IMAGE_0 $(id) é 🌙\nJSON\n$'


@pytest.mark.parametrize("key", [None, KEY])
def test_the_commands_do_what_the_page_does(browser, guard, picture, monkeypatch, key):
    monkeypatch.chdir(picture.parent)
    monkeypatch.setenv("VISIONWARD_API_KEY", KEY)
    with RunningServer(guard, keys=None if key is None else ApiKeys((key,))) as server:
        page = opened(browser, server)
        if key is not None:
            page.until("!document.querySelector('#key-field').hidden")
            page.click("#key")
            page.type(key)
        page.until("document.querySelector('#model-line').innerText !== '' || " + str(key is not None).lower())
        write(page, TEXT)
        page.drop_files("#drop", picture)
        page.until("document.querySelectorAll('#images img').length === 1")
        page.click("#add-turn")
        page.type("unsafe")
        page.click("#judge")
        judged(page)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(page.text("#python"), "snippet", "exec"), {})  # noqa: S102 - it is for people to run
        assert output.getvalue() == "unsafe\nS9,S1\n"
        if shutil.which("curl") is not None:
            command = [chromium.BASH, "-c", page.text("#curl")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert '"content":"unsafe\\nS9,S1"' in done.stdout
    for conversation, options in guard.history:
        assert conversation.texts == (TEXT, "unsafe")
        assert conversation.images == (picture.read_bytes(),)
        assert options == guard.history[0][1]


CONTRASTS = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255).map(
    (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
  ).reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const back = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  return [...document.querySelectorAll("body *")].filter(
    (one) => one.checkVisibility() && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
  ).map((one) => {
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(back(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.textContent.slice(0, 30)];
  });
})()
"""


def test_narrow_and_wide_screens_light_and_dark(page, picture):
    page.drop_files("#drop", picture)
    page.until("document.querySelectorAll('#images img').length === 1")
    for text in ("hello", "error" + "x" * 300, "unsafe"):
        page.evaluate(f"document.querySelector('#turn-0').value = {text!r}")
        page.click("#judge")
        failed(page) if "error" in text else judged(page)
        for width, dark in product((320, 360, 800, 1400), (False, True)):
            page.screen(width, dark)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 15
            # WCAG 2.2, 1.4.3: text is 4.5 times as light as its ground, or the other way round.
            assert [entry for entry in contrasts if entry[0] < 4.5] == []
            small = (
                "[...document.querySelectorAll('button, .button, textarea')].filter((one) => one.checkVisibility())"
                ".map((one) => one.getBoundingClientRect()).filter((box) => box.width < 24 || box.height < 24).length"
            )
            assert page.evaluate(small) == 0
