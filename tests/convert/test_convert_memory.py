"""Memory does not grow with the checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

MEASURE = """
import resource, sys
from pathlib import Path
from visionward.convert import convert_checkpoint
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), text_type=sys.argv[4], mmproj_type=sys.argv[4])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_checkpoint(Path(sys.argv[3]), Path(sys.argv[2]), text_type=sys.argv[4], mmproj_type=sys.argv[4])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["f32", "f16", "q8_0"])
def test_peak_memory(tiny_checkpoint_dir, tmp_path, target):
    large = write_tiny_checkpoint(
        tmp_path / "large",
        dtype="BF16",
        shards=3,
        layers=5,
        cross_layers=(1,),
        text_width=3072,
        vision_width=1280,
        local_layers=3,
        global_layers=1,
        tile_size=560,
    )
    stored = sum(path.stat().st_size for path in large.glob("*.safetensors"))
    assert stored > 600e6
    command = [sys.executable, "-c", MEASURE, str(tiny_checkpoint_dir), str(tmp_path / "out"), str(large), target]
    run = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    grown = float(run.stdout)
    assert grown < 150, f"converting {stored / 1e6:.0f} MB took {grown:.0f} MiB more than converting a tiny one"
