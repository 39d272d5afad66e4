"""What an engine for ONNX towers offers. Without the native library, so that ``doctor`` can ask the engines."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from visionward.runtime.vision.provider_share import ProviderShare

Array = npt.NDArray[np.float32]

# What both engines call the CPU.
ON_CPU = "CPU"

# How often a running session calls back, and so may be cancelled.
POLL_S = 0.1


class TowerSession(Protocol):
    """An inference engine that has loaded an ONNX tower.

    Attributes:
        device: what it computes on, such as ``CPU``.
        share: what it leaves to the CPU, if it computes on another device and knows.
    """

    device: str
    share: ProviderShare | None

    def run(self, pixel_values: Array, aspect_ratio_id: int, check_cancelled: Callable[[], None]) -> Array:
        """Features (tiles, tokens per tile, width) of the real tiles (tiles, 3, S, S).

        ``check_cancelled`` is called every ``POLL_S`` seconds; what it raises ends the computation.

        Raises:
            ComputeError: if the engine fails.
        """

    def close(self) -> None:
        """Free the weights; calling it again does nothing."""
