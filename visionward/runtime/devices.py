"""What computed a verdict: the devices of its parts. Standard library only."""

from dataclasses import dataclass

CPU = "CPU"


@dataclass(frozen=True)
class Devices:
    """The devices of a loaded pair, by ggml's names (``CPU``, ``CUDA0``, ``Vulkan0``, ...).

    Attributes:
        text: of the decoder; several are joined by commas.
        vision: of the vision tower, on ONNX Runtime or OpenVINO their own name; None without an image.
        cross: of the cross-attention layers; None without an image.
        gpu_layers: decoder layers on ``text``, with the output head as one; 0 on the CPU. The others are on the CPU.
        layers: decoder layers in all, with the output head.
        memory_bytes: how much less memory is free on these GPUs than before loading, whoever took it; 0 on the CPU.
    """

    text: str
    vision: str | None
    cross: str | None
    gpu_layers: int
    layers: int
    memory_bytes: int = 0

    @property
    def names(self) -> str:
        """The devices in short: ``CPU``, or ``CUDA0 (20 of 33 layers), vision on CPU``."""
        share = "" if self.gpu_layers in (0, self.layers) else f" ({self.gpu_layers} of {self.layers} layers)"
        first = self.text.split(",")[0]
        others = [
            f"{part} on {device}"
            for part, device in (("vision", self.vision), ("cross-attention", self.cross))
            if device not in (None, first)
        ]
        return ", ".join([self.text + share, *others])

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computed everything."""
        return {self.text, self.vision, self.cross} <= {CPU, None}
