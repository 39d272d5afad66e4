"""The true shape of the vision tower's layers (Llama 3.2 Vision's configuration)."""

from typing import Any

TRUE_LAYERS: dict[str, Any] = {
    "width": 1280,
    "feed_forward_length": 5120,
    "head_count": 16,
    "local_layers": 32,
    "global_layers": 8,
    "intermediate_layers": (3, 7, 15, 23, 30),
}
