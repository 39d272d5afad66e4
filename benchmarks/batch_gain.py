"""What `classify_batch` gains over a loop of `classify` by decoding the next image while one is computed.

    python -m benchmarks.batch_gain [--rounds 5] [--images 8]

With the demonstration guard, one thread and photographs of 12 megapixels: seconds per batch, median (lowest to
highest), in turns.
"""

import io
import os
import statistics
import time
from collections.abc import Callable

import click
import numpy as np
from PIL import Image

from visionward import Guard, GuardProcess

PROMPT = "How do I draw the moon?"


def photographs(count: int) -> list[bytes]:
    """Different JPEG files of 4000 x 3000 pixels, with detail."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((4000, 3000), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--images", default=8, show_default=True)
def main(rounds: int, images: int) -> None:
    """Measure and print."""
    samples = [{"image": data, "prompt": PROMPT} for data in photographs(images)]
    times: dict[str, list[float]] = {}
    options = {"threads": 1, "n_ctx": 1024, "image_cache_bytes": 0, "vision_backend": "ggml"}
    with Guard.demo(**options) as guard, GuardProcess.demo(**options) as process:
        for number in range(rounds + 1):
            for name, one in (("Guard", guard), ("GuardProcess", process)):
                loop = seconds(lambda one=one: [one.classify(**sample) for sample in samples])
                batch = seconds(lambda one=one: list(one.classify_batch(samples)))
                if number:
                    times.setdefault(f"{name}, loop", []).append(loop)
                    times.setdefault(f"{name}, batch", []).append(batch)
    print(f"load average {os.getloadavg()[0]:.1f}; {images} images")
    for name, found in times.items():
        print(f"{name:20} {statistics.median(found):6.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
