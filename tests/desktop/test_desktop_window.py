"""The window of examples/desktop, without a display: real clicks and keys, and the demonstration guard."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from visionward.demonstration import demo_samples_path

pytestmark = pytest.mark.desktop

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "desktop"
PICTURE = demo_samples_path().parent / "picture_1_2_tiles.jpg"
SAFE_PICTURE = demo_samples_path().parent / "picture_2_1_tiles.jpg"
QUESTION = "How do I draw the moon?"
TIMEOUT_S = 180
SHOTS = "VISIONWARD_SCREENSHOTS"


def wait_for(qt, condition):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        qt.QTest.qWait(10)


def settle(qt, window, text):
    wait_for(qt, lambda: window.message.isVisible() or window.statusBar().currentMessage().startswith(text))
    assert window.message.text() == ""


def keep(home, **settings):
    (home / "config").mkdir(exist_ok=True)
    values = {"text": "", "mmproj": "", "engine": "ggml", "threads": 1, **settings}
    (home / "config" / "desktop.json").write_text(json.dumps(values))


@pytest.fixture
def window(qt, home, opened):
    keep(home)
    made = opened()
    settle(qt, made, "Ready.")
    return made


def click(qt, widget):
    qt.QTest.mouseClick(widget, qt.Qt.MouseButton.LeftButton)


def classify(qt, window, picture=PICTURE, text=QUESTION):
    if picture is not None:
        window.image.open(picture)
    window.prompt.clear()
    qt.QTest.keyClicks(window.prompt, text)
    click(qt, window.classify)


def verdict_of(window):
    return window.result.word.text()


def test_a_verdict_by_clicks(qt, window):
    assert not window.classify.isEnabled()
    classify(qt, window)
    assert not window.classify.isEnabled()
    assert window.cancel.isEnabled()
    settle(qt, window, "Done.")
    assert verdict_of(window) == "UNSAFE"
    assert window.result.score.text().startswith("P(unsafe) 1.000, threshold 0.5")
    bars = {code: bar.value() for code, bar in window.result.bars.items()}
    assert bars["S6"] == max(bars.values()) > 900
    assert "Named: S6" in window.result.notes.text()
    assert "this is the demonstration guard" in window.result.notes.text()
    assert "2 tiles on ggml" in window.result.notes.text()
    assert window.classify.isEnabled()
    assert not window.cancel.isEnabled()


def test_the_history_shows_earlier_verdicts(qt, window):
    classify(qt, window)
    settle(qt, window, "Done.")
    classify(qt, window, SAFE_PICTURE)
    settle(qt, window, "Done.")
    assert verdict_of(window) == "SAFE"
    texts = [window.history.item(row).text() for row in range(window.history.count())]
    assert ["  SAFE " in texts[0], "  UNSAFE " in texts[1]] == [True, True]
    assert "picture_1_2_tiles.jpg: How do I draw the moon?" in texts[1]
    qt.app.processEvents()
    first = window.history.visualItemRect(window.history.item(1)).center()
    qt.QTest.mouseClick(window.history.viewport(), qt.Qt.MouseButton.LeftButton, pos=first)
    assert verdict_of(window) == "UNSAFE"


def test_keys_alone(qt, window):
    window.prompt.setFocus()
    qt.QTest.keyClicks(window.prompt, "Words")
    qt.QTest.keyClick(window.prompt, qt.Qt.Key.Key_Tab)
    qt.QTest.keyClicks(window.response, "An answer")
    qt.QTest.keyClick(window.response, qt.Qt.Key.Key_Return, qt.Qt.KeyboardModifier.ControlModifier)
    settle(qt, window, "Done.")
    assert window.prompt.toPlainText() == "Words"
    assert verdict_of(window) in ("SAFE", "UNSAFE")


def test_cancelling(qt, window):
    """The process is stopped until the window has been told to cancel, so that it cannot be too fast."""
    os.kill(window.guard.pid, signal.SIGSTOP)
    classify(qt, window)
    click(qt, window.cancel)
    assert window.statusBar().currentMessage() == "Cancelling..."
    os.kill(window.guard.pid, signal.SIGCONT)
    settle(qt, window, "Cancelled")
    assert verdict_of(window) == "No verdict"
    assert window.history.count() == 0
    qt.QTest.keyClick(window, qt.Qt.Key.Key_Escape)
    classify(qt, window)
    settle(qt, window, "Done.")
    assert verdict_of(window) == "UNSAFE"


def test_the_process_is_killed(qt, window):
    pid = window.guard.pid

    def kill(*_progress):
        if window.guard.pid == pid:
            os.kill(pid, signal.SIGKILL)

    window.guard.progressed.connect(kill, qt.Qt.ConnectionType.DirectConnection)
    classify(qt, window)
    wait_for(qt, window.message.isVisible)
    assert "the guard's process ended while classifying (SIGKILL" in window.message.text()
    assert verdict_of(window) == "No verdict"
    classify(qt, window)
    settle(qt, window, "Done.")
    assert not window.message.isVisible()
    assert verdict_of(window) == "UNSAFE"


def has_ended(pid):
    """Whether the process is gone or waits to be reaped, on Linux."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " in stat.read_text()


def test_the_model_is_deleted_while_it_runs(qt, home, opened, pair_of, tmp_path):
    pair = pair_of("plain", "f16")
    files = [tmp_path / path.name for path in (pair.text, pair.mmproj)]
    for source, target in zip((pair.text, pair.mmproj), files, strict=True):
        target.write_bytes(source.read_bytes())
    keep(home, text=str(files[0]), mmproj=str(files[1]))
    window = opened()
    settle(qt, window, "Ready.")
    assert window.model.text() == files[0].name
    files[0].unlink()
    pid = window.guard.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(qt, lambda: has_ended(pid))
    classify(qt, window, None)
    wait_for(qt, window.message.isVisible)
    assert str(files[0]) in window.message.text()
    assert verdict_of(window) == "No verdict"


def test_an_image_that_is_none(qt, window, tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    classify(qt, window, tmp_path / "notes.txt")
    wait_for(qt, window.message.isVisible)
    assert "notes.txt" in window.message.text()
    assert "notes.txt\n(no preview)" in window.image.text()
    assert verdict_of(window) == "No verdict"


def test_dropping_and_pasting(qt, window):
    data = qt.QMimeData()
    data.setUrls([qt.QUrl.fromLocalFile(str(PICTURE))])
    for kind in (qt.QDragEnterEvent, qt.QDropEvent):
        point = qt.QPointF(5, 5) if kind is qt.QDropEvent else qt.QPoint(5, 5)
        buttons, keys = qt.Qt.MouseButton.LeftButton, qt.Qt.KeyboardModifier.NoModifier
        event = kind(point, qt.Qt.DropAction.CopyAction, data, buttons, keys)
        qt.app.sendEvent(window.image, event)
        assert event.isAccepted()
    assert window.image.image == PICTURE
    picture = qt.QImage(60, 40, qt.QImage.Format.Format_RGB32)
    picture.fill(qt.Qt.GlobalColor.red)
    qt.QGuiApplication.clipboard().setImage(picture)
    window.image.setFocus()
    qt.QTest.keyClick(window, qt.Qt.Key.Key_V, qt.Qt.KeyboardModifier.ControlModifier)
    assert qt.QImage.fromData(window.image.image).pixelColor(30, 20).name() == "#ff0000"
    qt.QGuiApplication.clipboard().setText("words")
    qt.QTest.keyClick(window, qt.Qt.Key.Key_V, qt.Qt.KeyboardModifier.ControlModifier)
    assert window.statusBar().currentMessage() == "There is no image in the clipboard."
    assert isinstance(window.image.image, bytes)


def test_the_first_start_explains_the_demonstration_guard(qt, home, opened):
    window = opened()
    text = window.welcome.findChild(qt.QLabel).text()
    assert "not a safety classifier" in text
    assert "huggingface.co/meta-llama/Llama-Guard-3-11B-Vision" in text
    assert "Built with Llama" in text
    click(qt, window.welcome.use_demo)
    assert json.loads((home / "config" / "desktop.json").read_text())["text"] == ""
    settle(qt, window, "Ready.")
    assert window.model.text() == "demonstration guard"
    assert opened().welcome is None


def test_settings(qt, home, window, pair_of):
    pair = pair_of("plain", "f16")
    window.show_settings()
    dialog = window.settings_dialog
    dialog.text.setText(str(pair.text))
    dialog.mmproj.setText(str(pair.mmproj))
    dialog.threads.setValue(1)
    click(qt, dialog.findChild(qt.QDialogButtonBox).button(qt.QDialogButtonBox.StandardButton.Ok))
    settle(qt, window, "Ready.")
    assert window.model.text() == pair.text.name
    assert json.loads((home / "config" / "desktop.json").read_text())["mmproj"] == str(pair.mmproj)
    window.show_settings()
    window.settings_dialog.text.setText("/nowhere/text.gguf")
    window.settings_dialog.accept()
    wait_for(qt, window.message.isVisible)
    assert "/nowhere/text.gguf" in window.message.text()
    assert not window.classify.isEnabled()


@pytest.mark.parametrize("content", ["", "[]", "{}x", '{"text": 1}', '{"engine": "abacus"}', '{"threads": -1}', "\xff"])
def test_settings_that_cannot_be_read_are_a_first_start(home, qt, content):
    from settings import read_settings  # noqa: PLC0415

    assert qt.app
    (home / "config").mkdir()
    (home / "config" / "desktop.json").write_text(content, encoding="latin-1")
    assert read_settings() is None


def test_everything_has_a_name_for_screen_readers(qt, window):
    interactive = (qt.QPushButton, qt.QPlainTextEdit, qt.QListWidget, qt.QProgressBar)
    widgets = [one for kind in interactive for one in window.findChildren(kind)]
    assert len(widgets) > 15
    for widget in (*widgets, window.image, window.result.word):
        assert widget.accessibleName() or getattr(widget, "text", str)(), widget


def run_app(home, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VISIONWARD_HOME": str(home), **variables}
    command = [sys.executable, str(EXAMPLE / "app.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_display(home, display):
    if sys.platform != "linux":
        pytest.skip("other systems always have one")
    done = run_app(home, QT_QPA_PLATFORM="xcb", DISPLAY=display, WAYLAND_DISPLAY="")
    assert (done.returncode, done.stdout) == (1, "")
    # What Qt says first depends on its libraries on this machine.
    assert re.fullmatch(r"visionward-desktop cannot open a window: .*(display|xcb).*\n", done.stderr)


def test_a_second_instance(qt, home):
    (home / "config").mkdir()
    lock = qt.QLockFile(str(home / "config" / "desktop.lock"))
    assert lock.tryLock(0)
    program = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); from PySide6.QtWidgets import QMessageBox\n"
        "QMessageBox.information = lambda *texts: print(texts[2])\n"
        "runpy.run_path(sys.argv[1] + '/app.py', {}, '__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "visionward is running already: see its window.\n")


def test_light_and_dark(qt, window, tmp_path):
    """Both are drawn; with VISIONWARD_SCREENSHOTS=FOLDER they are kept, to be looked at."""
    folder = Path(os.environ.get(SHOTS, tmp_path))
    usual = qt.app.palette()
    classify(qt, window)
    settle(qt, window, "Done.")
    brightness = {}
    for name, colour in (("light", "#efefef"), ("dark", "#2b2b2b")):
        qt.app.setPalette(qt.QPalette(qt.QColor(colour)))
        qt.app.processEvents()
        window.grab().save(str(folder / f"{name}.png"))
        brightness[name] = qt.QImage(str(folder / f"{name}.png")).pixelColor(3, 3).lightness()
    qt.app.setPalette(usual)
    assert brightness["light"] > 200
    assert brightness["dark"] < 60
