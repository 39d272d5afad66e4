"""A benchmark as plain values: the figures, and the environment that they depend on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf

from visionward.diagnose.benchmark import BenchmarkPlan, Measurement
from visionward.diagnose.environment import Environment, read_environment
from visionward.diagnose.pair_summary import FileSummary, summarize_pair
from visionward.formats import mmproj_format
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.regular_file import open_regular
from visionward.formats.text_format import TEXT_ARCHITECTURE
from visionward.runtime.images.images import decode_image

FORMAT_VERSION = 2
# Tells a file of another program from one of ours.
PROGRAM = "visionward bench"

# The packages that compute; the others only read files and arguments.
_PACKAGES = ("visionward", "llama-cpp-python", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "openvino")
_KEY_FILE_TYPE = "general.file_type"


@dataclass(frozen=True)
class Benchmark:
    """A measurement and its environment.

    Attributes:
        measurement: the times, the rates and the memory.
        environment: groups (``machine``, ``library``, ``settings``, ``text``, ``mmproj``, ``image``, ``prompt``,
            ``verdict``) of names and plain values; None if a value is unknown.
    """

    measurement: Measurement
    environment: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The benchmark as plain values, in the form that ``visionward bench --json`` prints."""
        return {
            "program": PROGRAM,
            "format_version": FORMAT_VERSION,
            "environment": self.environment,
            "times_ms": {row: asdict(spread) for row, spread in self.measurement.times_ms.items()},
            "rates": self.measurement.rates,
            "peak_memory_bytes": asdict(self.measurement.memory),
            "gpu_memory_bytes": self.measurement.verdict.devices.memory_bytes,
            "other_cores": self.measurement.other_cores,
        }


def describe(
    measurement: Measurement, plan: BenchmarkPlan, text: Path, mmproj: Path, options: Mapping[str, object]
) -> Benchmark:
    """Describe everything that the figures of a measurement depend on.

    Args:
        measurement: the figures.
        plan: the plan of the measurement.
        text: the text file.
        mmproj: the mmproj file.
        options: the settings that the guard was loaded with.

    Raises:
        ModelFileError: if a file cannot be read.
        ImageError: if the image cannot be read.
    """
    verdict = measurement.verdict
    found = read_environment()
    pair = summarize_pair(text, mmproj)
    files = {
        name: _file(summary.file, path, architecture)
        for name, summary, path, architecture in (
            ("text", pair.text, text, TEXT_ARCHITECTURE),
            ("mmproj", pair.mmproj, mmproj, mmproj_format.MMPROJ_ARCHITECTURE),
        )
        if summary is not None
    }
    settings: dict[str, Any] = {
        **{
            name: value if value is None or isinstance(value, int | float) else str(value)
            for name, value in options.items()
        },
        # Options may be None or auto, for the default.
        "threads": measurement.threads,
        "device": measurement.device,
        "kernels": measurement.kernels,
        "vision_backend": verdict.vision_backend,
        "runs": plan.runs,
        "warmup": plan.warmup,
    }
    environment = {
        "machine": _machine(found),
        "library": _library(found),
        "settings": settings,
        **files,
        "image": _image(plan) | {"tiles": verdict.tiles},
        "prompt": {"sha256": hashlib.sha256(plan.prompt.encode()).hexdigest(), "tokens": verdict.tokens.prompt},
        # An unsafe verdict decodes the categories, a safe one nothing.
        "verdict": {"verdict": verdict.verdict, "decoded_tokens": verdict.tokens.decoded},
    }
    return Benchmark(measurement, environment)


def _machine(found: Environment) -> dict[str, Any]:
    processor, memory = found.processor, found.memory
    return {
        "processor": processor.model,
        "architecture": processor.architecture,
        "features": None if processor.features is None else " ".join(processor.features),
        "physical_cores": found.physical_cores,
        "logical_cores": processor.logical_cores,
        "usable_cores": processor.usable_cores,
        "memory_bytes": memory.total,
        "memory_limit_bytes": memory.limit,
        "platform": found.platform,
        "python": found.python,
    }


def _library(found: Environment) -> dict[str, Any]:
    library = found.library
    return {name: found.packages[name] for name in _PACKAGES} | {
        "ggml_version": library.ggml_version,
        "ggml_commit": library.ggml_commit,
        "compiler": library.compiler,
        "build": library.build,
        "devices": ", ".join(f"{device.name}: {device.description}" for device in library.devices),
    }


def _file(file: FileSummary, path: Path, architecture: str) -> dict[str, Any]:
    header = GgufHeader(path, architecture)
    number = header.get(_KEY_FILE_TYPE, int) if header.has(_KEY_FILE_TYPE) else None
    return {
        "file": file.file,
        "name": file.name,
        "nbytes": file.nbytes,
        "file_type": None if number is None else _file_type(number),
        "types": " ".join(f"{count.type}:{count.nbytes}" for count in file.types),
        "text_hash": file.text_hash,
    }


def _file_type(number: int) -> str:
    try:
        return str(gguf.LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return str(number)


def _image(plan: BenchmarkPlan) -> dict[str, Any]:
    source = plan.image
    picture = decode_image(source)
    file = Path(source) if isinstance(source, Path) else None
    if file is None:
        content = picture.tobytes()
    else:
        with open_regular(file) as opened:
            content = opened.read()
    return {
        "name": "synthetic" if file is None else file.name,
        "width": picture.width,
        "height": picture.height,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def dump(values: Mapping[str, Any]) -> str:
    """A benchmark's plain values as JSON, one value per line.

    Raises:
        ValueError: if a figure is not finite.
    """
    return json.dumps(values, allow_nan=False, indent=1)
