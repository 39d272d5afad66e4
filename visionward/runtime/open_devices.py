"""The devices of a loaded pair: ggml backends with their compute buffers, and what they take of the GPUs' memory."""

from contextlib import ExitStack

from visionward.runtime.device_plan import DevicePlan
from visionward.runtime.devices import CPU, Devices
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.device_list import BackendDevice, free_memory
from visionward.runtime.ggml.graph import Allocator, ProductObserver


class OpenDevices:
    """The opened devices of a plan. Closed by the stack.

    Args:
        plan: which device computes what.
        threads: CPU threads.
        stack: is given what has to be closed.

    Attributes:
        cross: the allocator of the cross-attention layers, on their device.
        vision: that of the vision tower; the same one on the same device.
    """

    def __init__(self, plan: DevicePlan, threads: int, stack: ExitStack) -> None:
        self._plan = plan
        self.cross = self._open(plan.cross, threads, stack)
        same = plan.vision.handle == plan.cross.handle
        self.vision = self.cross if same else self._open(plan.vision, threads, stack)

    @staticmethod
    def _open(found: BackendDevice, threads: int, stack: ExitStack) -> Allocator:
        device = Device(found, threads)
        stack.callback(device.close)
        allocator = Allocator(device)
        stack.callback(allocator.close)
        return allocator

    def observe(self, observer: ProductObserver | None) -> None:
        """Give an observer the input of every product in the graphs of these devices; None ends it."""
        self.cross.observer = self.vision.observer = observer

    def use_free_memory(self) -> None:
        """Let attention on GPUs take more memory for fewer and larger products. Called once everything is loaded."""
        for allocator, device in ((self.cross, self._plan.cross), (self.vision, self._plan.vision)):
            if device.is_gpu:
                allocator.use_memory(free_memory(device.handle)[0])

    def description(self, layers: int, vision: str | None = None) -> Devices:
        """What computes what, and the memory taken by now.

        Args:
            layers: decoder layers in all, with the output head.
            vision: the vision tower's device, if it is not on ggml.
        """
        plan = self._plan
        taken = (device.memory_free - free_memory(device.handle)[0] for device in plan.gpus)
        return Devices(
            text=",".join(device.name for device in plan.text) or CPU,
            vision=plan.vision.name if vision is None else vision,
            cross=plan.cross.name,
            gpu_layers=plan.gpu_layers,
            layers=layers,
            memory_bytes=sum(max(0, nbytes) for nbytes in taken),
        )
