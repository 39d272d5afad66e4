"""Choosing the engine that runs the vision tower: ggml, ONNX Runtime or OpenVINO."""

import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from visionward.errors import ModelFileError, NativeLibraryError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import tower_hash
from visionward.formats.mmproj_format import MmprojConfig
from visionward.formats.onnx_format import WEIGHT_TYPES, TowerIdentity, check_weights, read_identity
from visionward.formats.tensor_checksums import Advance
from visionward.names import CPU_PROVIDER, VisionBackend, VisionBackendChoice
from visionward.runtime.vision.onnx_tower import TowerSession
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession
from visionward.runtime.vision.openvino_session import OpenVinoSession, best_precision
from visionward.runtime.vision.vision_memory import tower_bytes

_WITHOUT_PROVIDERS = ("ggml", "openvino")
_MODULES: dict[VisionBackend, str] = {"openvino": "openvino", "onnx": "onnxruntime"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionOptions:
    """What the caller says of the vision tower.

    Attributes:
        backend: the engine; ``auto`` takes the fastest that is installed, has a tower to run, and fits.
        tower: the ONNX tower; one beside the mmproj file that belongs to it unless given.
        provider: what ONNX Runtime computes with, by its own name.
        memory_limit: bytes that the whole process may take; ``auto`` keeps to it, and to a container's limit.
    """

    backend: VisionBackendChoice = "auto"
    tower: Path | None = None
    provider: str = CPU_PROVIDER
    memory_limit: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The engine that will run the tower, and the ONNX tower for it with the type of its weights; None for ggml."""

    backend: VisionBackend
    tower: Path | None = None
    weight_type: str = ""
    provider: str = CPU_PROVIDER

    def session(self, threads: int, advance: Advance | None = None) -> TowerSession:
        """Load the ONNX tower, whose weights are read in full the first time.

        Args:
            threads: CPU threads.
            advance: is told how many bytes were read; may raise to end the reading.

        Raises:
            NativeLibraryError: if the engine is not installed.
            ModelFileError: if the tower is damaged, or the engine cannot load it.
        """
        if self.tower is None:
            raise ValueError("ggml runs the tower of the mmproj file")
        check_weights(self.tower, advance)
        if self.backend == "openvino":
            return OpenVinoSession(self.tower, threads=threads, precision=best_precision(self.weight_type))
        return OnnxRuntimeSession(self.tower, threads=threads, provider=self.provider)


def choose_backend(
    options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig, *, gpu: bool, room: int | None
) -> Chosen:
    """The engine to run the tower with.

    ``auto`` takes ggml on a GPU, where it is fastest; on a CPU OpenVINO where it computes in bf16, else ONNX Runtime,
    and then the other one, each only if it is installed, a tower was exported for it, and its weights fit into the
    memory limit; else ggml. A provider other than the CPU's names ONNX Runtime.

    Args:
        options: what the caller asked for.
        mmproj: the mmproj file.
        config: what it says of the model.
        gpu: whether ggml computes on a GPU.
        room: bytes that the tower may take, or None where nothing limits them.

    Raises:
        ModelFileError: if an engine was named, or a tower, and there is no tower for it or it belongs to another model.
        NativeLibraryError: if a provider was named that is none of the engine's.
        ValueError: if there is no such engine.
    """
    if options.backend not in get_args(VisionBackendChoice):
        raise ValueError(
            f"there is no vision backend {options.backend!r}, only {', '.join(get_args(VisionBackendChoice))}."
        )
    if options.provider != CPU_PROVIDER and options.backend in _WITHOUT_PROVIDERS:
        raise NativeLibraryError(
            f"{options.provider} is a provider of ONNX Runtime, which {options.backend} has nothing to do with: "
            "leave it out (--onnx-provider), or choose the vision backend onnx."
        )
    if options.backend == "ggml":
        return Chosen("ggml")
    named: VisionBackendChoice = options.backend
    if named == "auto" and options.provider != CPU_PROVIDER:
        named = "onnx"
    if named != "auto":
        path, identity = _required(options, mmproj, config)
        return Chosen(named, path, identity.weight_type, options.provider)
    if options.tower is None and gpu:
        return Chosen("ggml")
    found = _find(options, mmproj, config)
    for path, identity in found:
        for backend in _by_speed(identity.weight_type):
            if find_spec(_MODULES[backend]) is None:
                continue
            needed = tower_bytes(backend, identity, config.vision)
            if room is None or needed <= room:
                return Chosen(backend, path, identity.weight_type)
            _log.info("%s would take %.1f GB for %s, and %.1f GB are left", backend, needed / 1e9, path, room / 1e9)
    return Chosen("ggml")


def load_session(
    options: VisionOptions, chosen: Chosen, threads: int, advance: Advance | None = None
) -> TowerSession | None:
    """The chosen engine with its tower loaded, or None for ggml.

    Where ``auto`` found the tower by itself, and it cannot be loaded, ggml takes its place.

    Raises:
        NativeLibraryError: if the engine that was asked for is not installed.
        ModelFileError: if it cannot load the tower.
    """
    if chosen.tower is None:
        return None
    try:
        return chosen.session(threads, advance)
    except (ModelFileError, NativeLibraryError) as error:
        if options.backend != "auto" or options.tower is not None or options.provider != CPU_PROVIDER:
            raise
        _log.warning("an ONNX tower is left out: %s", error)
        return None


def _by_speed(weight_type: str) -> tuple[VisionBackend, ...]:
    """The fastest engine first, as measured (benchmarks/RESULTS.md)."""
    return ("openvino", "onnx") if best_precision(weight_type) == "bf16" else ("onnx", "openvino")


def _required(options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig) -> tuple[Path, TowerIdentity]:
    found = next(iter(_find(options, mmproj, config)), None)
    if found is None:
        raise ModelFileError(
            f"there is no ONNX tower beside {mmproj.path} that belongs to it: make one with "
            f"`visionward export-onnx {shlex.quote(str(mmproj.path))}`, or name one (--onnx-tower)."
        )
    return found


def _find(options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig) -> list[tuple[Path, TowerIdentity]]:
    """Towers that belong to the model, the type to prefer first."""
    if options.tower is not None:
        identity = read_identity(options.tower)
        if not identity.belongs(config, tower_hash(mmproj)):
            raise ModelFileError(
                f"{options.tower} and {mmproj.path} do not belong together: use the ONNX tower of the same conversion."
            )
        return [(options.tower, identity)]
    return sorted(towers_beside(mmproj, config), key=lambda found: WEIGHT_TYPES.index(found[1].weight_type))


def towers_beside(mmproj: GgufHeader, config: MmprojConfig) -> Iterator[tuple[Path, TowerIdentity]]:
    """ONNX towers in the mmproj file's folder that belong to it; damaged ones and those of other models are left out.

    Args:
        mmproj: the mmproj file.
        config: what it says of the model.
    """
    for path in sorted(mmproj.path.parent.glob("vision-*.onnx")):
        try:
            identity = read_identity(path)
        except ModelFileError as error:
            _log.warning("an ONNX tower is left out: %s", error)
            continue
        if identity.belongs(config, tower_hash(mmproj)):
            yield path, identity
