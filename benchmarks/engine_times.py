"""Times of the vision tower in several engines, in turns, each in a process of its own.

    python -m benchmarks.engine_times RESULTS.jsonl TEXT.gguf MMPROJ.gguf ggml onnx=INT8.onnx openvino=F16.onnx

Vision and a prompt of 254 tokens, without the image cache; the image with the most tiles goes first and warms up. Each
result is appended to RESULTS.jsonl at once; then the medians and ranges of everything in it are printed. With
`python -m benchmarks.peers.cpuid_mask FOLDER` in front, the engines run without AVX-512, and a run in which a thread
used it fails.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import click
import llama_cpp

from benchmarks.peers import cpuid_mask
from benchmarks.peers.inputs import image
from benchmarks.tile_times import judge, prompt_tokens
from visionward.runtime.engine import Engine
from visionward.runtime.vision.onnxruntime_session import adds_bytes_exactly


def measure(text: Path, mmproj: Path, contestant: str, tiles: list[int], threads: int) -> dict[str, object]:
    """Seconds of one engine by the number of tiles."""
    backend, _, tower = contestant.partition("=")
    options = {"onnx_tower": Path(tower)} if tower else {}
    engine = Engine(text, mmproj, vision_backend=backend, threads=threads, kernels="plain", **options)
    try:
        tokens = prompt_tokens(engine)
        cut = {number: engine.tile(image(number, 1)) for number in sorted(tiles, reverse=True)}
        if any(len(image_tiles.pixel_values) != number for number, image_tiles in cut.items()):
            raise ValueError(f"{mmproj} does not cut the images into {tiles} tiles.")
        watch = cpuid_mask.Avx512Watch()
        found = {number: judge(engine, image_tiles, tokens) for number, image_tiles in cut.items()}
        used = watch.threads()
    finally:
        engine.close()
    masked = cpuid_mask.is_loaded()
    if masked and used:
        raise SystemExit(f"{len(used)} threads of {contestant} used AVX-512.")
    return {
        "contestant": backend + (f" {Path(tower).stem.rpartition('-')[2]}" if tower else f" {mmproj.stem}"),
        "masked": masked,
        "adds_bytes_exactly": adds_bytes_exactly(),
        "llama": llama_cpp.llama_print_system_info().decode(),
        "tiles": found,
    }


def table(results: Path) -> str:
    """Medians and ranges of all results."""
    runs = defaultdict(list)
    for line in results.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        library = "AVX-512" if "AVX512 = 1" in record["llama"] else "AVX2"
        for tiles, seconds in record["tiles"].items():
            key = (
                record["contestant"],
                "masked" if record["masked"] else "free",
                f"llama.cpp {library}",
                f"{tiles} tiles",
            )
            runs[key].append(seconds)
    lines = []
    for key, found in sorted(runs.items()):
        stages = (
            f"{stage} {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
            for stage in found[0]
            for values in [[one[stage] for one in found]]
        )
        lines.append(f"{', '.join(key)}, {len(found)} rounds: {'; '.join(stages)}")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("results", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("mmproj", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("contestants", nargs=-1, required=True)
@click.option("--tiles", type=int, multiple=True, default=[4, 1], show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--here", is_flag=True, hidden=True)
def main(
    results: Path,
    text: Path,
    mmproj: Path,
    contestants: tuple[str, ...],
    tiles: tuple[int, ...],
    rounds: int,
    threads: int,
    here: bool,
) -> None:
    """Measure and print."""
    if here:
        record = measure(text, mmproj, contestants[0], list(tiles), threads)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return
    for _ in range(rounds):
        for contestant in contestants:
            options = [part for number in tiles for part in ("--tiles", str(number))]
            command = [sys.executable, "-m", "benchmarks.engine_times", results, text, mmproj, contestant, "--here"]
            subprocess.run([*command, *options, "--threads", str(threads)], check=True)
    click.echo(table(results))


if __name__ == "__main__":
    main()
