"""Memory does not grow with the file."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from visionward.convert import convert_checkpoint

MEASURE = """
import resource, sys
from pathlib import Path
from visionward.quant.quantize import quantize_file
def peak(who):
    return resource.getrusage(who).ru_maxrss / 1024
if __name__ == "__main__":
    tiny, large, target = map(Path, sys.argv[1:4])
    quantize_file(tiny, target, "q4_k_m", overwrite=True)
    before = [peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)]
    quantize_file(large, target, "q4_k_m", overwrite=True)
    print(peak(resource.RUSAGE_SELF) - before[0], peak(resource.RUSAGE_CHILDREN) - before[1])
"""


@pytest.mark.slow
def test_peak_memory(f16_pair, tmp_path):
    shape = {
        "layers": 6,
        "cross_layers": (1, 4),
        "text_width": 3072,
        "vision_width": 1280,
        "vision_heads": 16,
        "local_layers": 4,
    }
    checkpoint = write_tiny_checkpoint(tmp_path / "large", dtype="BF16", **shape)
    pair = convert_checkpoint(checkpoint, tmp_path, text_type="bf16", mmproj_type="bf16")
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    for tiny, large in ((f16_pair.text, pair.text), (f16_pair.mmproj, pair.mmproj)):
        stored = large.stat().st_size
        assert stored > 300e6
        command = [sys.executable, str(script), str(tiny), str(large), str(tmp_path / "q.gguf")]
        run = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        own, child = map(float, run.stdout.split())
        assert own < 150
        # llama.cpp maps the tensor at hand, and keeps a slab of it in float32.
        assert child < 350, f"quantizing {stored / 1e6:.0f} MB took {child:.0f} MiB more than quantizing a tiny file"
