"""Memory does not grow with the checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

MEASURE = """
import sys
from pathlib import Path
from visionward.convert import convert_checkpoint
from visionward.machine.process_memory import MemoryWatch

with MemoryWatch() as memory:
    convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), text_type=sys.argv[3], mmproj_type=sys.argv[3])
print(memory.peak.total)
"""


def _checkpoint(folder: Path, layers: int) -> Path:
    shape = {
        "cross_layers": (1,),
        "text_width": 3072,
        "vision_width": 1280,
        "vision_heads": 16,
        "global_layers": 1,
        "tile_size": 560,
    }
    return write_tiny_checkpoint(folder, dtype="BF16", shards=3, layers=layers, local_layers=layers, **shape)


def _stored(checkpoint: Path) -> int:
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of the same tensors, but for the number of layers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return _checkpoint(folder / "small", 3), _checkpoint(folder / "large", 8)


def _peak(checkpoint: Path, output: Path, target: str) -> float:
    """MiB of a process that converts one checkpoint: the heap of one that converts several keeps what it had."""
    command = [sys.executable, "-c", MEASURE, str(checkpoint), str(output), target]
    run = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return int(run.stdout) / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the peak of the whole process alone")
@pytest.mark.parametrize("target", ["f32", "f16", "q8_0"])
def test_peak_memory(checkpoints: tuple[Path, Path], tmp_path: Path, target: str) -> None:
    small, large = checkpoints
    more = (_stored(large) - _stored(small)) / 2**20
    assert more > 700
    least, most = (_peak(checkpoint, tmp_path / checkpoint.name, target) for checkpoint in checkpoints)
    assert most < least + more / 10, f"{more:.0f} MiB more to convert took {most - least:.0f} MiB more"
    assert most < 600
