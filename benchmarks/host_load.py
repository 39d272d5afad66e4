"""What a guard costs inside a program that does something else, and what it costs to have it in a child process.

    python -m benchmarks.host_load [TEXT.gguf MMPROJ.gguf] [--rounds 5] [--calls 1] [--image PHOTO]

Without files: the demonstration guard. Each variant classifies the same image and prompt with one thread; the image is
encoded before. The variants take turns in each round:

    Guard, GuardProcess                          nothing else runs
    Guard beside a busy process                  a Python loop in another process: what it takes from the processor
    Guard, GuardProcess with a busy thread       the same loop in a thread of this program, which holds the GIL

A busy thread takes the GIL from the engine's callbacks, and half of the machine's memory bandwidth, caches and, on
processors with two threads per core, of the core itself. A busy process has the second effect too, so the first one is
the difference between the two.

Printed are medians (lowest to highest) of the milliseconds per call, and of those that a call takes beside the
verdict's own time.
"""

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from visionward import Guard, GuardProcess, Policy

PROMPT = "How do I draw the moon?"
# A short prompt, and few categories to score.
POLICY = Policy.from_mapping({"S1": "Spoilers"})
PICTURE = Path(__file__).parents[1] / "visionward" / "demo_guard" / "samples" / "picture_2_1_tiles.jpg"


class BusyThread:
    """A loop in pure Python, in a thread of this process."""

    def __init__(self) -> None:
        self._go = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        count = 0
        while True:
            self._go.wait()
            for _ in range(10_000):
                count += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it inside the ``with`` block."""
        self._go.set()
        yield
        self._go.clear()


class BusyProcess:
    """The same loop in another process."""

    def __init__(self) -> None:
        loop = "count = 0\nwhile True:\n    for _ in range(10_000):\n        count += 1\n"
        self._process = subprocess.Popen([sys.executable, "-c", loop])
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it inside the ``with`` block."""
        self._process.send_signal(signal.SIGCONT)
        yield
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def nothing() -> Iterator[None]:
    """Nothing else runs."""
    yield


def show(name: str, times: list[float], base: float) -> None:
    """One line of the table."""
    median = statistics.median(times)
    print(f"{name:34} {median:9.1f} ({min(times):.1f} to {max(times):.1f})  {median / base - 1:+.1%}")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--calls", default=1, show_default=True, help="Calls per variant and round.")
@click.option("--image", default=PICTURE, type=click.Path(exists=True, path_type=Path))
def main(files: tuple[Path, ...], rounds: int, calls: int, image: Path) -> None:
    """Measure and print."""
    options: dict[str, Any] = {"threads": 1, "n_ctx": 1024, "vision_backend": "ggml"}
    load = (lambda kind: kind.load(*files, **options)) if files else (lambda kind: kind.demo(**options))
    thread, process = BusyThread(), BusyProcess()
    with load(Guard) as guard, load(GuardProcess) as child:
        variants = {
            "Guard": (guard, nothing),
            "GuardProcess": (child, nothing),
            "Guard beside a busy process": (guard, process.running),
            "Guard with a busy thread": (guard, thread.running),
            "GuardProcess with a busy thread": (child, thread.running),
        }
        data = image.read_bytes()
        for one in (guard, child):
            one.classify(image=data, prompt=PROMPT, policy=POLICY)
        print("measuring", flush=True)
        whole: dict[str, list[float]] = {name: [] for name in variants}
        beside: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, (one, busy) in variants.items():
                with busy():
                    for _ in range(calls):
                        started = time.perf_counter()
                        verdict = one.classify(image=data, prompt=PROMPT, policy=POLICY)
                        took = (time.perf_counter() - started) * 1000
                        whole[name].append(took)
                        beside[name].append(took - verdict.timings_ms.total)
    process.close()
    print(f"load average {os.getloadavg()[0]:.1f}; {verdict.tokens.prompt} tokens; ms per call, against Guard")
    base = statistics.median(whole["Guard"])
    for name, times in whole.items():
        show(name, times, base)
    print("\nms beside the verdict's own time, median")
    for name, times in beside.items():
        print(f"{name:34} {statistics.median(times):9.2f} ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
