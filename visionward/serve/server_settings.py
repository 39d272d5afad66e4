"""How the server answers."""

from dataclasses import dataclass, field
from typing import Any

from visionward.names import DEFAULT_THRESHOLD
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.serve.api_keys import ApiKeys
from visionward.serve.model_list import ModelList
from visionward.serve.request_limits import DEFAULT_MAX_WAITING, RequestLimits


@dataclass(frozen=True)
class ServerSettings:
    """How the server answers.

    Attributes:
        models: the names of the guard.
        keys: what clients must have; None for a server that answers everybody.
        limits: on one request.
        max_waiting: requests that may wait for others.
        image_hosts: the only hosts that images are downloaded from.
        policy: the categories in force.
        threshold: a verdict is unsafe from this score on.
    """

    models: ModelList
    keys: ApiKeys | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    max_waiting: int = DEFAULT_MAX_WAITING
    image_hosts: tuple[str, ...] = ()
    policy: Policy = DEFAULT_POLICY
    threshold: float = DEFAULT_THRESHOLD

    def model_entry(self, name: str) -> dict[str, Any]:
        """The response of ``GET /v1/models/{name}``, with the categories in force and the threshold.

        Raises:
            ApiError: there is no such model (status 404).
        """
        categories = {category.code: category.name for category in self.policy.categories}
        own = {"threshold": self.threshold, "categories": categories}
        return {**self.models.entry(name), "visionward": own}

    def model_list(self) -> dict[str, Any]:
        """The response of ``GET /v1/models``."""
        return {"object": "list", "data": [self.model_entry(name) for name in self.models.names]}

    @property
    def max_held_bytes(self) -> int:
        """Bytes of bodies and downloaded images that all requests may hold at once."""
        return 8 * self.limits.max_body_bytes
