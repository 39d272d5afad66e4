"""A hint after a slow classification: what would encode images faster on this machine's CPU."""

from collections.abc import Iterator
from pathlib import Path

from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.machine.shell import visionward_command
from visionward.quantities import duration_text
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.vision.vision_backend import towers_beside

# Below this a hint is not worth its lines.
MIN_SLOW_MS = 5000.0
# The fastest weights on most processors (docs/onnx-tower.md).
_WEIGHT_TYPE = "int8"


def faster_vision_lines(verdict: Verdict, mmproj: Path) -> Iterator[str]:
    """The command that exports an ONNX tower, if ggml was slow and there is no tower yet.

    Args:
        verdict: of a classification on the CPU.
        mmproj: the mmproj file.
    """
    if verdict.vision_backend != "ggml" or verdict.timings_ms.vision < MIN_SLOW_MS:
        return
    header = GgufHeader(mmproj)
    if next(towers_beside(header, read_mmproj_config(header)), None) is not None:
        # It does not fit into memory, or it cannot be loaded, which the log says.
        return
    yield ""
    yield (
        f"Hint: ggml took {duration_text(verdict.timings_ms.vision)} for the image on the CPU. ONNX Runtime is faster, "
        "and takes 1 to 5 GB more memory. Export the vision tower once; it is then used by itself:"
    )
    yield f"    {visionward_command('export-onnx', mmproj, '--type', _WEIGHT_TYPE)}"
