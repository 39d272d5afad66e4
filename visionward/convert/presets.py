"""Types of the files of a conversion that go well together, and the memory that the files need at run time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

from visionward.convert.conversion import ConvertedPair
from visionward.formats.onnx_format import read_identity
from visionward.formats.pair_files import PairFiles
from visionward.names import DEFAULT_N_CTX, DEFAULT_UBATCH, FileType, OnnxWeightType, PresetName
from visionward.runtime.ggml.device_list import gpu_devices
from visionward.runtime.vision.vision_memory import bytes_without_tower, tower_bytes


@dataclass(frozen=True)
class FileTypes:
    """The types of the files of a conversion.

    Attributes:
        text: of the text file.
        mmproj: of the mmproj file.
        onnx: of the ONNX tower's weights; None for no tower.
    """

    text: FileType
    mmproj: FileType
    onnx: OnnxWeightType | None


PRESETS: Mapping[PresetName, FileTypes] = {
    # The smallest files that lose little, and the tower that is fastest on most CPUs (docs/onnx-tower.md).
    "laptop": FileTypes("q4_k_m", "q4_k_m", "int8"),
    "f16": FileTypes("f16", "f16", None),
}


def preset_types(name: PresetName) -> tuple[FileTypes, str | None]:
    """The types of a preset on this machine, and why the preset's ONNX tower is left out, if it is."""
    types = PRESETS[name]
    reason = None if types.onnx is None else _why_no_tower()
    return (types, None) if reason is None else (replace(types, onnx=None), reason)


def _why_no_tower() -> str | None:
    """Why an ONNX tower would not be used here: ``auto`` takes ggml on a GPU, and needs ONNX Runtime on a CPU."""
    if gpu_devices():
        return "llama.cpp computes on a GPU here, which is faster"
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    return None


@dataclass(frozen=True)
class MemoryNeed:
    """Memory that a classification takes on a CPU, in bytes, with the default context and an image of all tiles.

    Attributes:
        ggml: if ggml runs the vision tower, whose mapped weights the system can take back.
        onnx: if ONNX Runtime runs the tower; None without an ONNX tower.
    """

    ggml: int
    onnx: int | None


def memory_need(pair: ConvertedPair) -> MemoryNeed:
    """Memory that the files of a conversion need at run time.

    Raises:
        ModelFileError: if a file is missing or damaged.
    """
    files = PairFiles.open(pair.text, pair.mmproj)
    rest = bytes_without_tower(pair.text, files.mmproj, files.config, cells=DEFAULT_N_CTX, ubatch=DEFAULT_UBATCH)
    if pair.onnx_tower is None:
        return MemoryNeed(rest, None)
    identity = read_identity(pair.onnx_tower)
    return MemoryNeed(rest, rest + tower_bytes("onnx", identity, files.config.vision))
