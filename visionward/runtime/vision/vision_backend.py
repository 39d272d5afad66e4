"""Choosing the engine that runs the vision tower: ggml, ONNX Runtime or OpenVINO."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from visionward.errors import ModelFileError, NativeLibraryError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import tower_hash
from visionward.formats.mmproj_format import MmprojConfig
from visionward.formats.onnx_format import WEIGHT_TYPES, TowerIdentity, check_weights, data_path, read_identity
from visionward.names import AUTO_PROVIDER, CPU_PROVIDER, OPENVINO_CPU, VisionBackend, VisionBackendChoice
from visionward.runtime.vision.compiled_cache import Begin, no_report
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession, gpu_providers
from visionward.runtime.vision.openvino_session import OpenVinoSession, best_precision
from visionward.runtime.vision.tower_session import TowerSession
from visionward.runtime.vision.vision_memory import tower_bytes

_WITHOUT_PROVIDERS = ("ggml", "openvino")
# Providers that do not ask for ONNX Runtime.
_OF_NO_ENGINE = (AUTO_PROVIDER, CPU_PROVIDER)
_MODULES: dict[VisionBackend, str] = {"openvino": "openvino", "onnx": "onnxruntime"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionOptions:
    """The options that concern the vision tower.

    Attributes:
        backend: the engine; ``auto`` takes the fastest that is installed, has a tower to run, and fits.
        tower: the ONNX tower; one beside the mmproj file that belongs to it unless given.
        provider: what ONNX Runtime computes with, by its own name; ``auto`` takes one for GPUs if there is one that
            computes the whole tower, else the CPU's.
        memory_limit: bytes that the whole process may take; ``auto`` keeps to it, and to a container's limit.
        openvino_device: what OpenVINO computes with, by its own name.
        max_tiles: the maximum number of tiles of an image; None for the model's.
    """

    backend: VisionBackendChoice = "auto"
    tower: Path | None = None
    provider: str = AUTO_PROVIDER
    memory_limit: int | None = None
    openvino_device: str = OPENVINO_CPU
    max_tiles: int | None = None

    @property
    def implied(self) -> VisionBackendChoice:
        """The engine that is asked for by its name, or by a provider or device of it other than the CPU."""
        if self.backend == "auto" and self.provider not in _OF_NO_ENGINE:
            return "onnx"
        return "openvino" if self.backend == "auto" and self.openvino_device != OPENVINO_CPU else self.backend


@dataclass(frozen=True)
class Chosen:
    """The engine that will run the tower, and its ONNX tower with the dtype of the weights (None for ggml).

    ``otherwise`` takes its place if the provider cannot be used or leaves matrix products to the CPU.
    """

    backend: VisionBackend
    tower: Path | None = None
    weight_type: str = ""
    provider: str = CPU_PROVIDER
    openvino_device: str = OPENVINO_CPU
    otherwise: "Chosen | None" = None

    @property
    def nbytes(self) -> int:
        """Bytes of the ONNX tower's files; 0 for ggml."""
        if self.tower is None:
            return 0
        return sum(path.stat().st_size for path in (self.tower, data_path(self.tower)) if path.is_file())

    def session(self, threads: int, begin: Begin = no_report) -> TowerSession:
        """Load the ONNX tower, whose weights are read in full the first time.

        Args:
            threads: CPU threads.
            begin: called with the name of each stage; gives the callback for the number of bytes done since the last
                call, which may raise to end the loading.

        Raises:
            NativeLibraryError: if the engine is not installed.
            ModelFileError: if the tower is damaged, or the engine cannot load it.
        """
        if self.tower is None:
            raise ValueError("ggml runs the tower of the mmproj file")
        check_weights(self.tower, begin("checking ONNX tower"))
        if self.backend == "openvino":
            precision = best_precision(self.weight_type)
            keep = None if self.weight_type == "f32" else begin
            return OpenVinoSession(
                self.tower, threads=threads, precision=precision, device=self.openvino_device, keep=keep
            )
        # Float16 weights are not packed.
        keep = begin if self.weight_type == "int8" else None
        return OnnxRuntimeSession(self.tower, threads=threads, provider=self.provider, keep=keep)


@dataclass(frozen=True)
class Loaded:
    """The engine that runs the tower.

    Attributes:
        backend: its name.
        session: the engine with its tower; None for ggml.
        warnings: what the user should know about the choice.
    """

    backend: VisionBackend
    session: TowerSession | None = None
    warnings: tuple[str, ...] = ()


def choose_backend(
    options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig, *, gpu: bool, memory_budget: int | None
) -> Chosen:
    """The engine to run the tower with.

    ``auto`` takes ggml on a GPU, where it is fastest. Otherwise it takes ONNX Runtime with a provider for GPUs,
    OpenVINO if that computes in bf16, ONNX Runtime on the CPU, or OpenVINO, each only if it is installed, a tower was
    exported for it, and its weights fit into the memory budget; else ggml. A provider other than the CPU's implies ONNX
    Runtime, and a device OpenVINO.

    Args:
        options: what the caller asked for.
        mmproj: the mmproj file.
        config: its configuration.
        gpu: whether ggml computes on a GPU.
        memory_budget: bytes that the tower may take; None if nothing limits them.

    Raises:
        ModelFileError: if an engine or a tower was named, and there is no tower for it or it belongs to another model.
        NativeLibraryError: if a provider or device was named that is not one of the engine's.
    """
    if options.provider not in _OF_NO_ENGINE and options.backend in _WITHOUT_PROVIDERS:
        raise NativeLibraryError(
            f"{options.provider} is a provider of ONNX Runtime and has no effect on {options.backend}; omit it "
            "(--onnx-provider), or choose the vision backend onnx."
        )
    named = options.implied
    if options.openvino_device != OPENVINO_CPU and named != "openvino":
        raise NativeLibraryError(
            f"{options.openvino_device} is a device of OpenVINO and has no effect on {named}; omit it "
            "(--openvino-device), or choose the vision backend openvino."
        )
    if named == "ggml":
        return Chosen("ggml")
    if named != "auto":
        path, identity = _required(options, mmproj, config)
        provider = CPU_PROVIDER if options.provider == AUTO_PROVIDER else options.provider
        chosen = Chosen(named, path, identity.weight_type, provider, options.openvino_device)
        return _on_gpu(options, [(path, identity)], chosen) if named == "onnx" else chosen
    if options.tower is None and gpu:
        return Chosen("ggml")
    found = _find(options, mmproj, config)
    fitting = [
        (path, identity)
        for path, identity in found
        if memory_budget is None or tower_bytes("onnx", identity, config.vision, options.max_tiles) <= memory_budget
    ]
    return _on_gpu(options, fitting, _on_cpu(options, found, config, memory_budget))


def _on_gpu(options: VisionOptions, found: Sequence[tuple[Path, TowerIdentity]], otherwise: Chosen) -> Chosen:
    """ONNX Runtime's providers for GPUs, each with the next one as ``otherwise``."""
    if options.provider == AUTO_PROVIDER and found:
        path, identity = found[0]
        for provider in reversed(gpu_providers()):
            otherwise = Chosen("onnx", path, identity.weight_type, provider, otherwise=otherwise)
    return otherwise


def _on_cpu(
    options: VisionOptions,
    found: Sequence[tuple[Path, TowerIdentity]],
    config: MmprojConfig,
    memory_budget: int | None,
) -> Chosen:
    for path, identity in found:
        for backend in _by_speed(identity.weight_type):
            if find_spec(_MODULES[backend]) is None:
                continue
            needed = tower_bytes(backend, identity, config.vision, options.max_tiles)
            if memory_budget is None or needed <= memory_budget:
                return Chosen(backend, path, identity.weight_type)
            _log.info(
                "%s needs %.1f GB for %s, and the budget is %.1f GB", backend, needed / 1e9, path, memory_budget / 1e9
            )
    return Chosen("ggml")


def load_session(options: VisionOptions, chosen: Chosen, threads: int, begin: Begin = no_report) -> Loaded:
    """The chosen engine with its tower loaded.

    If ``auto`` found the tower by itself and it cannot be loaded, ggml takes its place.

    Raises:
        NativeLibraryError: if the engine that was asked for is not installed.
        ModelFileError: if it cannot load the tower.
    """
    unused: list[str] = []
    while chosen.tower is not None:
        try:
            session = chosen.session(threads, begin)
        except (ModelFileError, NativeLibraryError) as error:
            if chosen.otherwise is None:
                if options.implied != "auto" or options.tower is not None:
                    raise
                _log.warning("an ONNX tower is ignored: %s", error)
                break
            unused.append(f"{chosen.provider} was not used: {error}")
        else:
            share = session.share
            if chosen.otherwise is None or share is None or not share.products_left:
                left = [f"{chosen.provider} left {share}."] if share is not None and share.left else []
                return Loaded(chosen.backend, session, (*unused, *left))
            session.close()
            unused.append(f"{chosen.provider} was not used: it would leave {share}.")
        chosen = chosen.otherwise
    return Loaded("ggml", warnings=tuple(unused))


def _by_speed(weight_type: str) -> tuple[VisionBackend, ...]:
    """The fastest engine first, as measured (benchmarks/RESULTS.md)."""
    return ("openvino", "onnx") if best_precision(weight_type) == "bf16" else ("onnx", "openvino")


def _required(options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig) -> tuple[Path, TowerIdentity]:
    found = next(iter(_find(options, mmproj, config)), None)
    if found is None:
        raise ModelFileError(
            f"no ONNX tower beside {mmproj.path} belongs to it; create one with "
            f"`visionward export-onnx {shlex.quote(str(mmproj.path))}`, or name one (--onnx-tower)."
        )
    return found


def _find(options: VisionOptions, mmproj: GgufHeader, config: MmprojConfig) -> list[tuple[Path, TowerIdentity]]:
    """Towers that belong to the model, the preferred type first."""
    if options.tower is not None:
        identity = read_identity(options.tower)
        if not identity.belongs(config, tower_hash(mmproj)):
            raise ModelFileError(
                f"{options.tower} and {mmproj.path} do not belong together; use the ONNX tower of the same conversion."
            )
        return [(options.tower, identity)]
    return preferred_towers(mmproj, config)


def preferred_towers(mmproj: GgufHeader, config: MmprojConfig) -> list[tuple[Path, TowerIdentity]]:
    """``towers_beside``, the preferred type first."""
    return sorted(towers_beside(mmproj, config), key=lambda found: WEIGHT_TYPES.index(found[1].weight_type))


def towers_beside(mmproj: GgufHeader, config: MmprojConfig) -> Iterator[tuple[Path, TowerIdentity]]:
    """ONNX towers in the mmproj file's folder that belong to it; damaged ones and those of other models are ignored.

    Args:
        mmproj: the mmproj file.
        config: its configuration.
    """
    for path in sorted(mmproj.path.parent.glob("vision-*.onnx")):
        try:
            identity = read_identity(path)
        except ModelFileError as error:
            _log.warning("an ONNX tower is ignored: %s", error)
            continue
        if identity.belongs(config, tower_hash(mmproj)):
            yield path, identity
