"""Judge every picture of a folder, and print one line for each.

python folder.py FOLDER [QUESTION]
"""

import sys
from pathlib import Path

from visionward import GuardProcess, Progress

SUFFIXES = {".avif", ".gif", ".jpeg", ".jpg", ".png", ".tiff", ".webp"}


def show_progress(progress: Progress) -> None:
    """Write the state to standard error, over the state before."""
    print(f"\r{progress.done} of {progress.total}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Return 1 if a picture is unsafe or could not be judged."""
    folder = Path(sys.argv[1])
    question = sys.argv[2] if len(sys.argv) > 2 else "What is in this picture?"
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    samples = [{"id": path.name, "image": path, "prompt": question} for path in paths]
    all_safe = True
    # Your own model: GuardProcess.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf", deadline_s=600)
    with GuardProcess.demo(deadline_s=600) as guard:
        for result in guard.classify_batch(samples, on_progress=show_progress):
            if result.verdict is None:
                print(f"{result.id}\tnot judged\t{result.error}")
            else:
                codes = ",".join(category.code for category in result.verdict.categories)
                print(f"{result.id}\t{result.verdict.verdict}\t{result.verdict.score:.3f}\t{codes}")
            all_safe = all_safe and result.verdict is not None and not result.verdict.unsafe
    return 0 if all_safe else 1


if __name__ == "__main__":
    sys.exit(main())
