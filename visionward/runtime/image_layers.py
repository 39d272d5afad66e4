"""What an mmproj file computes, opened on its devices: the vision tower and the cross-attention layers."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from visionward.errors import NativeLibraryError
from visionward.formats.pair_files import PairFiles
from visionward.formats.tensor_checksums import Advance
from visionward.names import AUTO_PROVIDER, CPU_PROVIDER, OPENVINO_CPU
from visionward.runtime.decoder.cross_attention import CrossAttention
from visionward.runtime.decoder.decoder import ANSWER_CELLS
from visionward.runtime.device_memory import DeviceMemory
from visionward.runtime.device_plan import DevicePlan, cpu_plan, plan_devices
from visionward.runtime.devices import CPU
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml.mmproj_weights import MmprojWeights
from visionward.runtime.open_devices import OpenDevices
from visionward.runtime.vision.ggml_tower import GgmlTower
from visionward.runtime.vision.session_tower import OnnxTower
from visionward.runtime.vision.tower import Tower
from visionward.runtime.vision.vision_backend import VisionOptions, choose_backend, load_session
from visionward.runtime.vision.vision_memory import tower_memory_budget

# Begins a stage of the ONNX tower's loading, given its name and the bytes in all: the callback for bytes that are done.
Begin = Callable[[str, int], Advance]


class ImageLayers:
    """The layers on the devices of a plan. Closed by the stack.

    Attributes:
        devices: the opened devices.
        tower: the vision tower.
        cross_attention: the cross-attention layers.
        weights: the mmproj file's tensors on the device of the latter.
        vision_backend: the engine that runs the tower.
        session_device: the device of an engine other than ggml; None for ggml.
        tower_bytes: bytes of the files that the tower is read from.
        warnings: what the user should know about the choice of the engine.
    """

    def __init__(
        self,
        plan: DevicePlan,
        files: PairFiles,
        options: EngineOptions,
        threads: int,
        stack: ExitStack,
        begin: Begin,
    ) -> None:
        self.devices = OpenDevices(plan, threads, stack)
        self.tower = self._load_tower(files, options, threads, stack, begin)
        self.cross_attention = CrossAttention(self.weights, self.devices.cross, exact=options.exact)

    def _load_tower(
        self, files: PairFiles, options: EngineOptions, threads: int, stack: ExitStack, begin: Begin
    ) -> Tower:
        vision = VisionOptions(
            "ggml" if options.exact else options.vision_backend,
            None if options.onnx_tower is None else Path(options.onnx_tower),
            _provider(options),
            options.memory_limit,
            options.openvino_device,
            options.tile_limit,
        )
        budget = tower_memory_budget(
            vision.memory_limit,
            files.text.path,
            files.mmproj,
            files.config,
            cells=options.n_ctx + ANSWER_CELLS,
            ubatch=options.ubatch,
            max_tiles=options.tile_limit,
        )
        on_cross, on_vision = self.devices.cross, self.devices.vision
        on_gpu = not on_vision.device.is_cpu
        chosen = choose_backend(vision, files.mmproj, files.config, gpu=on_gpu, memory_budget=budget)
        loaded = load_session(vision, chosen, threads, lambda stage: begin(stage, chosen.nbytes))
        session = loaded.session
        if session is not None:
            stack.callback(session.close)
        self.vision_backend = loaded.backend
        self.warnings = loaded.warnings
        self.session_device = None if session is None else session.device
        self.tower_bytes = files.mmproj.path.stat().st_size if session is None else chosen.nbytes
        together = session is None and on_vision is on_cross
        self.weights = MmprojWeights(files.mmproj, files.config, on_cross.device, tower=together)
        stack.callback(self.weights.close)
        if session is not None:
            return OnnxTower(session, files.config, on_cross.device)
        of_tower = self.weights
        if not together:
            of_tower = MmprojWeights(files.mmproj, files.config, on_vision.device, cross=False)
            stack.callback(of_tower.close)
        tower = GgmlTower(of_tower, on_vision, exact=options.exact)
        stack.callback(tower.close)
        return tower

    def unsupported(self, image_tokens: int) -> str:
        """What their devices do not support, as the beginning of a sentence; empty if nothing.

        Args:
            image_tokens: tokens of an image that cross-attention is tried with.
        """
        lacking = {self.devices.cross.device.name: self.cross_attention.unsupported(image_tokens)}
        if isinstance(self.tower, GgmlTower):
            lacking.setdefault(self.devices.vision.device.name, set()).update(self.tower.unsupported())
        return " and ".join(f"{name} does not support {', '.join(sorted(ops))}" for name, ops in lacking.items() if ops)


def open_image_layers(
    files: PairFiles, options: EngineOptions, threads: int, stack: ExitStack, begin: Begin
) -> tuple[DevicePlan, ImageLayers]:
    """Decide on the devices, and open them with the layers. A GPU that lacks an operation gives way to the CPU.

    Raises:
        NativeLibraryError: if a device that was asked for is not there, or lacks an operation.
        ComputeError: if the memory of one does not suffice.
    """
    plan = plan_devices(options, _memory_needs(files, options))
    layers = ImageLayers(plan, files, options, threads, stack, begin)
    lacking = layers.unsupported(files.config.vision.tile_tokens) if plan.gpus else ""
    if not lacking:
        return plan, layers
    if options.device or options.vision_device or options.gpu_layers:
        raise NativeLibraryError(f"{lacking}: use another device, or the CPU (--device CPU).")
    stack.close()
    plan = cpu_plan(f"{lacking}: everything was computed on the CPU.")
    return plan, ImageLayers(plan, files, options, threads, stack, begin)


def _provider(options: EngineOptions) -> str:
    """ONNX Runtime's provider: not one for GPUs if the CPU alone was asked for."""
    devices = (options.vision_device or options.device or "").upper()
    cpu_alone = devices == CPU.upper() or options.gpu_layers == 0
    return CPU_PROVIDER if cpu_alone and options.onnx_provider == AUTO_PROVIDER else options.onnx_provider


def _memory_needs(files: PairFiles, options: EngineOptions) -> DeviceMemory:
    elsewhere = options.onnx_provider not in (AUTO_PROVIDER, CPU_PROVIDER) or options.openvino_device != OPENVINO_CPU
    on_ggml = options.vision_backend in ("auto", "ggml") and options.onnx_tower is None and not elsewhere
    return DeviceMemory.of(
        files,
        cells=options.n_ctx + ANSWER_CELLS,
        ubatch=options.ubatch,
        exact=options.exact,
        tower=options.exact or on_ggml,
        max_tiles=options.tile_limit,
    )
