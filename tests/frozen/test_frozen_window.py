"""The window of examples/desktop, frozen: one window, and a guard's process that is not a second one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optional_modules import WITHOUT_OPTIONAL

pytestmark = [pytest.mark.frozen, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "desktop"
MAX_MB = 250
TIMEOUT_S = 180


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The folder with the bundle, and what freeze.py printed."""
    folder = tmp_path_factory.mktemp("Fenster ä")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "freeze.py"), *WITHOUT_OPTIONAL],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done.stdout


def test_the_bundle_is_small(build):
    """The largest ten parts are listed, and shown if it fails."""
    print(build[1])  # noqa: T201 - shown with -s
    (size,) = re.findall(r"^dist/visionward-desktop: (\d+) MB, built in \d+ s$", build[1], re.MULTILINE)
    assert int(size) < MAX_MB, build[1]
    assert len(build[1].splitlines()) == 11


def children(pid):
    """The processes that any thread of a process started."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def wait_for(condition, process):
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_one_window_and_one_child(build, tmp_path):
    program = build[0] / "dist" / "visionward-desktop" / "visionward-desktop"
    files = {*program.parent.rglob("*")}
    (tmp_path / "home" / "config").mkdir(parents=True)
    settings = '{"text": "", "mmproj": "", "engine": "ggml", "threads": 1}'
    (tmp_path / "home" / "config" / "desktop.json").write_text(settings)
    environment = {
        "HOME": str(tmp_path),
        "PATH": str(tmp_path),
        "QT_QPA_PLATFORM": "offscreen",
        "VISIONWARD_HOME": str(tmp_path / "home"),
    }
    for _ in range(2):
        started = time.perf_counter()
        with subprocess.Popen([program], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_for((tmp_path / "home" / "config" / "desktop.lock").exists, process)
                (child,) = wait_for(lambda: children(process.pid), process)
                wait_for(lambda: "mmproj-demo-guard" in Path(f"/proc/{child}/maps").read_text(), process)  # noqa: B023
                print(f"\nmodel loaded after {time.perf_counter() - started:.1f} s")  # noqa: T201 - shown with -s
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                assert command == [os.fsencode(program), b"--visionward-child-process", b""]
                assert children(process.pid) == [child]
                assert children(child) == []
                assert "libllama" not in Path(f"/proc/{process.pid}/maps").read_text()
                maps = Path(f"/proc/{child}/maps").read_text()
                assert len(set(re.findall(r"\S*libllama\S*", maps))) == 1
                # PyInstaller's own hook for PySide6 loads QtCore, before or after visionward's.
                assert "libQt6Gui" not in maps
                # Nothing of the environment of the build is used.
                assert sys.prefix not in maps + Path(f"/proc/{process.pid}/maps").read_text()
                assert {*program.parent.rglob("*")} == files
            finally:
                process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}").exists() and ") Z " not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_without_a_display(build, tmp_path):
    program = build[0] / "dist" / "visionward-desktop" / "visionward-desktop"
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path), "QT_QPA_PLATFORM": "xcb", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"visionward-desktop cannot open a window: .*(display|xcb).*\n", done.stderr)
