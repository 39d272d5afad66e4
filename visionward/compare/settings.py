"""How models are run: the same for all pairs, and the same for all endpoints."""

from dataclasses import dataclass
from typing import Any

from visionward.names import DEFAULT_THRESHOLD
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy


@dataclass(frozen=True)
class GuardSettings:
    """How every pair is run.

    Attributes:
        policy: categories in force.
        threshold: P(unsafe) from which on a verdict is unsafe.
        threads: CPU threads; None for the default.
        gpu_layers: decoder layers on the GPU; None for the default.
        device: where the decoder is; None for the default.
        vision_device: where the vision tower of pairs is that run it on ggml; None for the default.
        feature_images: number of images whose vision features are compared.
    """

    policy: Policy = DEFAULT_POLICY
    threshold: float = DEFAULT_THRESHOLD
    threads: int | None = None
    gpu_layers: int | None = None
    device: str | None = None
    vision_device: str | None = None
    feature_images: int = 4

    def key(self) -> dict[str, Any]:
        """What results depend on."""
        # Left out if they were not given, so that comparisons begun before these options existed go on.
        places = {"device": self.device, "vision_device": self.vision_device}
        return {
            "policy": self.policy.prompt_categories(),
            "threshold": self.threshold,
            "threads": self.threads,
            "gpu_layers": self.gpu_layers,
            **{name: place for name, place in places.items() if place is not None},
        }


@dataclass(frozen=True)
class EndpointSettings:
    """How endpoints are asked.

    Attributes:
        requests_per_minute: at most so many; None for no limit.
        timeout_s: of one request.
        retries: of one request, with growing pauses, for busy servers and broken connections.
    """

    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    retries: int = 6
