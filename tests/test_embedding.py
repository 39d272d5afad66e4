"""The programs of examples/embedding and the code of docs/embedding.md, with the demonstration guard."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from visionward.convert.demo_guard import demo_pair

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "embedding"
PAGE = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
SAMPLES = ROOT / "visionward" / "demo_guard" / "samples"


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QT_QPA_PLATFORM": "offscreen"},
        **options,
    )


def test_the_chat_checks_messages_and_answers() -> None:
    """The same answer is shown or not, by what the picture is."""
    said = "Take me to the ring.\nHow do I draw the moon?\n"
    shown = "I think that you want the ring with the tree.\n"
    done = run(EXAMPLES / "chat.py", SAMPLES / "picture_3_3_tiles.jpg", input=said)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown * 2, "")
    done = run(EXAMPLES / "chat.py", SAMPLES / "picture_4_4_tiles.jpg", input=said)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "This message is not answered.\nThe answer is not shown.\n"


def test_a_message_that_cannot_be_judged_is_not_answered(tmp_path: Path) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"no picture")
    done = run(EXAMPLES / "chat.py", tmp_path / "damaged.jpg", input="Take me to the ring.\n")
    assert (done.returncode, done.stdout) == (0, "This message is not answered.\n")
    assert done.stderr.startswith("not judged: image data:")


def test_a_folder(tmp_path: Path) -> None:
    for path in SAMPLES.glob("picture_[12]*.jpg"):
        shutil.copy(path, tmp_path)
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    done = run(EXAMPLES / "folder.py", tmp_path, "How do I draw the moon?")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["damaged.png", "not judged"],
        ["picture_1_2_tiles.jpg", "unsafe"],
        ["picture_2_1_tiles.jpg", "safe"],
    ]
    assert lines[1][3] == "S6"
    assert done.returncode == 1
    assert done.stderr.endswith("3 of 3")


USE_THE_WINDOW = """
import sys
sys.path.insert(0, sys.argv[1])
from PySide6.QtCore import QDeadlineTimer, QEventLoop, Qt, QTimer
from PySide6.QtWidgets import QApplication
from window import Window

application = QApplication([])
window = Window(sys.argv[2])
window.show()
ticks = []
timer = QTimer(interval=5, timeout=lambda: ticks.append(window.result.text()))
timer.start()


def wait(*beginnings):
    deadline = QDeadlineTimer(120_000)
    while not window.result.text().startswith(beginnings):
        assert not deadline.hasExpired(), window.result.text()
        application.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    print(window.result.text())


wait("Ready.")
window.text.setText("How do I draw the moon?")
window.start.click()
assert not window.start.isEnabled()
wait("UNSAFE", "SAFE")
assert ticks.count("Judging ...") > 1, "the window stood still"
window.grab().save(sys.argv[4])
window.picture.setText(sys.argv[3])
cancelling = window.advanced.connect(window.cancel, Qt.ConnectionType.DirectConnection)
window.start.click()
wait("Cancelled.")
window.advanced.disconnect(cancelling)
window.picture.setText("missing.png")
window.start.click()
wait("Not judged: missing.png")
window.close()
"""


def test_the_window(tmp_path: Path) -> None:
    pytest.importorskip(
        "PySide6.QtWidgets", reason="PySide6 or a library that it needs is missing", exc_type=ImportError
    )
    pictures = (SAMPLES / "picture_1_2_tiles.jpg", SAMPLES / "picture_4_4_tiles.jpg")
    done = run("-c", USE_THE_WINDOW, EXAMPLES, *pictures, tmp_path / "window.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[:3] == ["Ready.", "UNSAFE, S6 Specialized Advice: P(unsafe) 1.000", "Cancelled."]
    assert (tmp_path / "window.png").stat().st_size > 1000


def test_the_window_needs_pyside6_alone() -> None:
    source = (EXAMPLES / "window.py").read_text(encoding="utf-8")
    modules = set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)) - set(sys.stdlib_module_names)
    assert modules == {"PySide6", "visionward"}
    assert importlib.util.find_spec("visionward") is not None


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", PAGE))))
def test_the_pages_code_runs(number: int, tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    pair = demo_pair()
    for name, path in (("guard-text.gguf", pair.text), ("mmproj-guard.gguf", pair.mmproj)):
        code = code.replace(f'"{name}"', repr(str(path)))
    shutil.copy(SAMPLES / "picture_1_2_tiles.jpg", tmp_path / "photo.jpg")
    (tmp_path / "program.py").write_text(code)
    done = run("program.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_what_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) >= 3
    assert all((ROOT / "docs" / link).exists() for link in links)
