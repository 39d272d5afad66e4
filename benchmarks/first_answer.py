"""Measure how long `visionward classify` takes from the command to the start of vision, with and without the cache.

    python benchmarks/first_answer.py MODELS IMAGE [--rounds 5]

MODELS has a pair and its ONNX tower. Every start is a new process that ends when the tower would begin to compute. The
first start of an engine compiles the tower and keeps it. Then `cold` starts, which compile and keep nothing, and
`cached` ones take turns. Prints medians and ranges: seconds, CPU seconds of the process, and its peak and anonymous
memory in GB.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ENGINES = ("onnx", "openvino")
KINDS = ("cold", "cached")
# Ends the process where the tower would begin, and prints what it has taken by then.
CHILD = """
import os, sys, time
from pathlib import Path
began = float(sys.argv.pop(1))
import visionward.runtime.vision.compiled_cache as compiled_cache
import visionward.runtime.vision.session_tower as session_tower
if sys.argv.pop(1) == "cold":
    compiled_cache.MIN_TOWER_BYTES = 2**60
def end(*_):
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {line[0].rstrip(":"): line[1] for line in lines if len(line) > 1}
    used = os.times()
    print(time.time() - began, used.user + used.system, kib["VmHWM"], kib["RssAnon"], flush=True)
    os._exit(0)
session_tower.OnnxTower.encode = end
from visionward.cli.main import cli
cli()
"""


def start(kind: str, engine: str, models: Path, image: Path, home: str) -> tuple[float, ...]:
    """Seconds, CPU seconds, peak GB and anonymous GB of one start."""
    options = ["classify", "--model", str(models), str(image), "What is this?", "--vision-backend", engine]
    command = [sys.executable, "-c", CHILD, repr(time.time()), kind, *options]
    environment = {**os.environ, "VISIONWARD_HOME": home}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds, cpu, peak, anonymous = map(float, done.stdout.split())
    return seconds, cpu, peak * 1024 / 1e9, anonymous * 1024 / 1e9


@click.command(help=__doc__)
@click.argument("models", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--rounds", default=5, show_default=True)
def main(models: Path, image: Path, rounds: int) -> None:
    """Measure and print."""
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory(prefix="first-answer-") as home:
        # Reads the files in full, to check them.
        start("cold", ENGINES[0], models, image, home)
        for engine in ENGINES:
            found[engine, "first"] = [start("first", engine, models, image, home)]
        for number in range(rounds):
            for engine, kind in itertools.product(ENGINES, KINDS):
                found.setdefault((engine, kind), []).append(start(kind, engine, models, image, home))
            click.echo(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", err=True)
    for (engine, kind), runs in found.items():
        columns = (
            f"{statistics.median(column):.2f} ({min(column):.2f}-{max(column):.2f})"
            for column in zip(*runs, strict=True)
        )
        click.echo(" | ".join((engine, kind, *columns)))


if __name__ == "__main__":
    main()
