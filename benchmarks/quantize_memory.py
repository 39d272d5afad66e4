"""Memory and speed of quantizing a file: `python benchmarks/quantize_memory.py FILE.gguf q8_0 q4_k_m`.

For files of the 11B shape: benchmarks/full_size_checkpoint.py (few layers will do, since memory depends on the largest
tensor) and `visionward convert`.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from visionward.quant.quantize import quantize_file


def measure(source: Path, target: Path, kind: str) -> None:
    """Print seconds, and in GiB by how much this process grew and how large the native quantizer's process became."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    quantize_file(source, target, kind, overwrite=True)
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{seconds:.0f} {grown / 2**20:.2f} {child / 2**20:.2f}")


def main() -> None:
    """Quantize a file into each type, in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("types", nargs="+")
    parser.add_argument("--target", type=Path, help="measure one type in this process, keeping the file")
    options = parser.parse_args()
    if options.target is not None:
        measure(options.source, options.target, options.types[0])
        return
    print(f"{options.source.name}: {options.source.stat().st_size / 1e9:.2f} GB\n")
    print("| type | GB | s | this process grew by GiB | native quantizer GiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.source.parent) as folder:
        for kind in options.types:
            target = Path(folder) / "q.gguf"
            command = [sys.executable, __file__, str(options.source), kind, "--target", str(target)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"| {kind} | {target.stat().st_size / 1e9:.2f} | {' | '.join(result.stdout.split())} |", flush=True)


if __name__ == "__main__":
    main()
