"""Times from the start of the example window to the window and to the first verdict, frozen and not.

    python benchmarks/desktop_start.py copy FOLDER
    python FOLDER/freeze.py [--with nuitka]
    python benchmarks/desktop_start.py measure unfrozen="python FOLDER/app.py" frozen=dist/visionward-desktop/...

The copy of the example judges one message by itself, prints when the window was shown and when the verdict was there,
and ends. The programs run in turn, with an environment of their own, on Qt's platform `offscreen`. Medians are printed.
"""

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "desktop"
ROUNDS = 5

TIMED_APP = """\
import sys
import time

from visionward import freeze_support

if __name__ == "__main__":
    freeze_support()
    from program import main
    from PySide6.QtCore import QTimer
    from window import Window

    def shown(self, event, shown=Window.showEvent):
        shown(self, event)
        QTimer.singleShot(0, lambda: print(time.time(), flush=True))

    def loaded(self, name, loaded=Window._loaded):
        loaded(self, name)
        self.prompt.setPlainText("How do I draw the moon?")
        self._classify()

    def judged(self, verdict, judged=Window._judged):
        judged(self, verdict)
        print(time.time(), verdict.score.hex(), flush=True)
        self.close()

    Window.showEvent, Window._loaded, Window._judged = shown, loaded, judged
    Window.show_welcome = lambda self: None
    sys.exit(main())
"""


def copy(folder):
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(TIMED_APP)


def start(command, home):
    """Seconds to the window and to the verdict, and the score."""
    environment = {"HOME": home, "VISIONWARD_HOME": home, "QT_QPA_PLATFORM": "offscreen", "LC_ALL": "C.UTF-8"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    started = time.time()
    done = subprocess.run(shlex.split(command), env=environment, stdout=subprocess.PIPE, text=True, check=True)
    window, verdict, score = done.stdout.split()
    return float(window) - started, float(verdict) - started, score


def measure(commands):
    seen = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as home:
        for turn in range(ROUNDS + 1):
            for name, command in commands.items():
                times = start(command, home)
                if turn:  # the first turn converts the demonstration guard, and reads the files into memory
                    seen[name].append(times)
    for name, runs in seen.items():
        window, verdict = (statistics.median(run[i] for run in runs) for i in (0, 1))
        print(f"{name:16} window {window:.2f} s, verdict {verdict:.2f} s, scores { ({run[2] for run in runs}) }")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("copy", "measure"))
    parser.add_argument("values", nargs="+")
    given = parser.parse_args()
    if given.what == "copy":
        copy(Path(given.values[0]))
    else:
        measure(dict(value.split("=", 1) for value in given.values))


if __name__ == "__main__":
    main()
