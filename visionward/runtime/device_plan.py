"""Which device computes what: decided by name or by free memory, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from visionward.errors import ComputeError, NativeLibraryError
from visionward.quantities import size_text
from visionward.runtime.device_memory import DeviceMemory
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml.device_list import BackendDevice, cpu_device, find_device, gpu_devices


@dataclass(frozen=True)
class DevicePlan:
    """The devices of a model's parts.

    Attributes:
        text: GPUs that the decoder's layers are divided among; empty for the CPU alone.
        gpu_layers: layers on them, with the output head as one; 0 if there are none.
        cross: the device of the cross-attention layers.
        vision: the device of the vision tower on ggml.
        warnings: sentences for the verdict about what is not as it could be.
    """

    text: tuple[BackendDevice, ...]
    gpu_layers: int
    cross: BackendDevice
    vision: BackendDevice
    warnings: tuple[str, ...] = ()

    @property
    def gpus(self) -> tuple[BackendDevice, ...]:
        """Every GPU of the plan, once."""
        found = {device.handle: device for device in (*self.text, self.cross, self.vision) if device.is_gpu}
        return tuple(found.values())


def plan_devices(options: EngineOptions, memory: DeviceMemory) -> DevicePlan:
    """Place the parts of a model.

    Without a name, the best GPU is used whose free memory suffices for all layers, or else the best one with as many
    layers as fit, or else for the vision tower alone. What a device that was named cannot hold is an error, as is a
    number of layers that does not fit.

    Args:
        options: ``device``, ``vision_device`` and ``gpu_layers``.
        memory: what the model needs.

    Raises:
        NativeLibraryError: if a device that was asked for is not there.
        ComputeError: if its memory does not suffice.
    """
    vision = None if options.vision_device is None else find_device(options.vision_device)
    named = [] if options.device is None else [find_device(name) for name in options.device.split(",")]
    if options.gpu_layers == 0 or (named and not any(device.is_gpu for device in named)):
        return _without_layers(vision, memory)
    if named:
        return _on_named(tuple(named), vision, options.gpu_layers, memory)
    gpus = gpu_devices()
    if not gpus and options.gpu_layers:
        raise NativeLibraryError(
            f"{options.gpu_layers} layers cannot be put on a GPU (--gpu-layers): the installed llama-cpp-python found "
            "none. Leave the option out to compute on the CPU, or install a build for CUDA, Metal or Vulkan "
            "(docs/gpu.md)."
        )
    return _on_best(gpus, vision, options.gpu_layers, memory)


def cpu_plan(*warnings: str) -> DevicePlan:
    """Everything on the CPU."""
    cpu = cpu_device()
    return DevicePlan((), 0, cpu, cpu, warnings)


def _without_layers(vision: BackendDevice | None, memory: DeviceMemory) -> DevicePlan:
    """The decoder on the CPU, and the tower where it was asked for."""
    cpu = cpu_device()
    if vision is not None and vision.is_gpu and not _suffices(vision, memory.tower_alone):
        raise ComputeError(
            f"{vision.name} has {size_text(vision.memory_free)} of memory free, and the vision tower needs about "
            f"{size_text(memory.tower_alone)}: use a smaller mmproj file, or vision_device=CPU (--vision-device CPU)."
        )
    return DevicePlan((), 0, cpu, vision or cpu)


def _on_named(
    text: tuple[BackendDevice, ...], vision: BackendDevice | None, wanted: int | None, memory: DeviceMemory
) -> DevicePlan:
    """The layers on the devices that were named: as many as were asked for, or as fit."""
    if not all(device.is_gpu for device in text):
        raise NativeLibraryError("the CPU cannot share a list of devices (--device) with GPUs; use --gpu-layers.")
    fit = _layers_that_fit(text, vision, memory)
    every = len(memory.layers)
    count = every if wanted is None else min(wanted, every)
    if count > fit and (wanted is not None or fit == 0):
        raise ComputeError(_too_much(text, vision, count, fit, memory))
    warnings = (_partly(text, vision, fit, memory),) if count > fit else ()
    return DevicePlan(text, min(count, fit), text[0], vision or text[0], warnings)


def _on_best(
    gpus: Sequence[BackendDevice], vision: BackendDevice | None, wanted: int | None, memory: DeviceMemory
) -> DevicePlan:
    cpu = cpu_device()
    if not gpus:
        return DevicePlan((), 0, cpu, vision or cpu)
    every = len(memory.layers)
    count = every if wanted is None else min(wanted, every)
    fits = [_layers_that_fit((gpu,), vision, memory) for gpu in gpus]
    best, fit = next(
        (pair for pair in zip(gpus, fits, strict=True) if pair[1] >= count),
        max(zip(gpus, fits, strict=True), key=lambda pair: pair[1]),
    )
    if fit >= count:
        return DevicePlan((best,), count, best, vision or best)
    if wanted is not None:
        raise ComputeError(_too_much((best,), vision, count, fit, memory))
    if fit:
        return DevicePlan((best,), fit, best, vision or best, (_partly((best,), vision, fit, memory),))
    if vision is None and _suffices(best, memory.tower_alone):
        return DevicePlan((), 0, cpu, best, (f"{_numbers((best,), vision, every, memory)}: only the tower is on it.",))
    return DevicePlan((), 0, cpu, vision or cpu, (f"{_numbers((best,), vision, every, memory)}: it is not used.",))


def _suffices(device: BackendDevice, nbytes: int) -> bool:
    """Whether a device has memory for something; one that does not tell is tried."""
    return device.memory_total == 0 or device.memory_free >= nbytes


def _has_tower(text: Sequence[BackendDevice], vision: BackendDevice | None) -> bool:
    return vision is None or any(vision.handle == device.handle for device in text)


def _layers_that_fit(text: Sequence[BackendDevice], vision: BackendDevice | None, memory: DeviceMemory) -> int:
    if any(device.memory_total == 0 for device in text):
        return len(memory.layers)
    return memory.layers_that_fit(sum(device.memory_free for device in text), tower=_has_tower(text, vision))


def _numbers(text: Sequence[BackendDevice], vision: BackendDevice | None, count: int, memory: DeviceMemory) -> str:
    free = " and ".join(f"{device.name} has {size_text(device.memory_free)} of memory free" for device in text)
    with_tower = _has_tower(text, vision)
    parts = "the vision tower and cross-attention" if with_tower else "cross-attention"
    needed = size_text(memory.needed(count, tower=with_tower))
    return f"{free}, and {count} of {len(memory.layers)} layers with {parts} need about {needed}"


def _too_much(
    text: Sequence[BackendDevice], vision: BackendDevice | None, count: int, fit: int, memory: DeviceMemory
) -> str:
    return (
        f"{_numbers(text, vision, count, memory)}: use gpu_layers={fit} (--gpu-layers {fit}), a smaller quantization, "
        "or a smaller n_ctx (--n-ctx)."
    )


def _partly(text: Sequence[BackendDevice], vision: BackendDevice | None, fit: int, memory: DeviceMemory) -> str:
    every = len(memory.layers)
    return f"{_numbers(text, vision, every, memory)}: {fit} layers are on it, and {every - fit} on the CPU."
