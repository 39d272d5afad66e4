"""Fewer tiles on the demonstration guard: `python -m benchmarks.tiles_demo OUT_DIR`.

Learns the band of `--max-tiles auto` on samples of another seed than the held-out ones, compares 1 tile, 2 tiles and
auto with all tiles on the held-out samples, and prints the table of the README. The demonstration guard is a toy
model for checking the installation: its figures say nothing about those of the real model.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.compare_demo import visionward, write_samples
from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED
from visionward import Guard, TileBand
from visionward.compare import read_dataset
from visionward.runtime.engine_options import EngineKeywords

LEARNING_SEED = HELD_OUT_SEED + 1
ALL = "all tiles"
TIMED_SAMPLES = 40


def compare(out: Path, data: Path, pair: str, settings: dict[str, str], options: list[object]) -> Path:
    """Compare settings with all tiles; the folder of the report."""
    candidates: list[object] = []
    for name, setting in settings.items():
        candidates += ["--candidate", f"{name}={pair};{setting}"]
    visionward("compare", "--data", data, "--reference", f"{ALL}={pair}", *candidates, *options, "--out", out)
    return out


def processor_ms(text: Path, mmproj: Path, data: Path, settings: dict[str, EngineKeywords]) -> dict[str, float]:
    """Processor time of a verdict in the median, on one thread, over the first sample of some groups.

    The settings take turns, without an image cache. Processor time depends less on other programs than elapsed time.
    """
    chosen = list({sample.group: sample for sample in reversed(read_dataset(data).samples)}.values())[-TIMED_SAMPLES:]
    times: dict[str, list[float]] = {name: [] for name in settings}
    with ExitStack() as stack:
        guards = {
            name: stack.enter_context(Guard.load(text, mmproj, threads=1, image_cache_bytes=0, **setting))
            for name, setting in settings.items()
        }
        for sample in chosen:
            for name, guard in guards.items():
                started = time.process_time()
                guard.classify(sample.conversation)
                times[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(found) for name, found in times.items()}


def table(report: Path, times: dict[str, float]) -> str:
    """A row per setting."""
    (figures,) = (one["figures"] for one in json.loads((report / "report.json").read_text(encoding="utf-8"))["sets"])
    lines = [
        "| setting | processor time of a verdict | judged twice | new misses | new false alarms |",
        "|---" * 5 + "|",
    ]
    return "\n".join([*lines, *(_row(model, figures, times[model["name"]]) for model in figures["models"])])


def _row(model: dict[str, Any], figures: dict[str, Any], milliseconds: float) -> str:
    against = model["against"]
    if against is None:
        return f"| {model['name']} | {milliseconds:.0f} ms | | | |"
    flips = against["flips"]
    changed = [
        f"{flips['unsafe']['to_safe']} of {figures['unsafe']}",
        f"{flips['safe']['to_unsafe']} of {figures['safe']}",
    ]
    twice = f"{model['second_looks']} of {figures['compared']}" if "auto" in model["setting"] else ""
    return f"| {model['name']} | {milliseconds:.0f} ms | {twice} | {' | '.join(changed)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--learn", type=int, default=1000, help="samples to learn from")
    parser.add_argument("--count", type=int, default=HELD_OUT_COUNT)
    parser.add_argument("--margin", type=float, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415

    files = demo_pair("f16", "f16")
    pair = f"{files.text},{files.mmproj}"
    options: list[object] = ["--margin", arguments.margin]
    if arguments.threads is not None:
        options += ["--threads", arguments.threads]
    learning = write_samples(arguments.out / "learning", arguments.learn, LEARNING_SEED)
    learnt = compare(arguments.out / "learnt", learning, pair, {"1 tile": "max_tiles=1"}, options)
    held_out = write_samples(arguments.out / "data", arguments.count)
    settings = {
        "2 tiles": "max_tiles=2",
        "1 tile": "max_tiles=1",
        "auto": f"max_tiles=auto;band={learnt / 'band.json'}",
    }
    report = compare(arguments.out / "report", held_out, pair, settings, options)
    keywords: dict[str, EngineKeywords] = {
        ALL: {},
        "2 tiles": {"max_tiles": 2},
        "1 tile": {"max_tiles": 1},
        "auto": {"max_tiles": "auto", "band": TileBand.read(learnt / "band.json")},
    }
    print(table(report, processor_ms(files.text, files.mmproj, held_out, keywords)))


if __name__ == "__main__":
    main()
