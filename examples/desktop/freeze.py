"""Freeze the window: python examples/desktop/freeze.py [--with pyinstaller|nuitka|briefcase] [the tool's options].

Run it in an environment that has only what the program needs. It builds in the working directory, and lists the largest
parts of the result.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import freeze_briefcase
import freeze_nuitka
import freeze_pyinstaller

from visionward.quantities import size_text

_TOOLS = {
    "pyinstaller": freeze_pyinstaller.freeze,
    "nuitka": freeze_nuitka.freeze,
    "briefcase": freeze_briefcase.freeze,
}
_LISTED = 10


def part_sizes(bundle: Path) -> Counter[str]:
    """Bytes of each part of a bundle; links take none."""
    sizes: Counter[str] = Counter()
    for path in bundle.rglob("*"):
        if path.is_file() and not path.is_symlink():
            sizes["/".join(path.relative_to(bundle).parts[:3])] += path.stat().st_size
    return sizes


def main() -> None:
    """Build the bundle, and print its size and its largest parts."""
    parser = argparse.ArgumentParser(description="Freeze the window of examples/desktop.", allow_abbrev=False)
    parser.add_argument("--with", dest="tool", choices=_TOOLS, default="pyinstaller")
    given, options = parser.parse_known_args()
    started = time.perf_counter()
    bundle = _TOOLS[given.tool](Path(__file__).with_name("app.py"), options)
    sizes = part_sizes(bundle)
    print(f"{bundle}: {size_text(sizes.total())}, built in {time.perf_counter() - started:.0f} s")
    for part, size in sizes.most_common(_LISTED):
        print(f"{size_text(size):>8}  {part}")


if __name__ == "__main__":
    main()
