"""Freeze the window with PyInstaller as one folder, and list the largest parts of the bundle.

Run it in an environment that has only what the program needs: python examples/desktop/freeze.py [PyInstaller's options]
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from visionward.quantities import size_text

_NAME = "visionward-desktop"
_LISTED = 10


def part_sizes(bundle: Path) -> Counter[str]:
    """Bytes of each part of a bundle; links take none."""
    sizes: Counter[str] = Counter()
    for path in bundle.rglob("*"):
        if path.is_file() and not path.is_symlink():
            sizes["/".join(path.relative_to(bundle).parts[:3])] += path.stat().st_size
    return sizes


def main() -> None:
    """Build ``dist/visionward-desktop``."""
    app = Path(__file__).with_name("app.py")
    started = time.perf_counter()
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", "--windowed", "--name", _NAME]
    subprocess.run([*command, *sys.argv[1:], str(app)], check=True)  # noqa: S603 - this interpreter and our own program
    bundle = Path("dist") / _NAME
    sizes = part_sizes(bundle)
    print(f"{bundle}: {size_text(sizes.total())}, built in {time.perf_counter() - started:.0f} s")
    for part, size in sizes.most_common(_LISTED):
        print(f"{size_text(size):>8}  {part}")


if __name__ == "__main__":
    main()
