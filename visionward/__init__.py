"""Llama Guard 3 11B Vision on your own machine: quantized, on unmodified llama.cpp, without the cloud."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionward.errors import VisionwardError
    from visionward.runtime.engine import Engine
    from visionward.runtime.guard.conversation import Conversation
    from visionward.runtime.guard.guard import Guard
    from visionward.runtime.guard.policy import DEFAULT_POLICY, Category, Policy
    from visionward.runtime.guard.verdict import CategoryScore, Verdict

__all__ = [
    "DEFAULT_POLICY",
    "Category",
    "CategoryScore",
    "Conversation",
    "Engine",
    "Guard",
    "Policy",
    "Verdict",
    "VisionwardError",
]

_GUARD = "visionward.runtime.guard"
_MODULES = {
    "DEFAULT_POLICY": f"{_GUARD}.policy",
    "Category": f"{_GUARD}.policy",
    "CategoryScore": f"{_GUARD}.verdict",
    "Conversation": f"{_GUARD}.conversation",
    "Engine": "visionward.runtime.engine",
    "Guard": f"{_GUARD}.guard",
    "Policy": f"{_GUARD}.policy",
    "Verdict": f"{_GUARD}.verdict",
    "VisionwardError": "visionward.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``visionward doctor`` must run where the native library cannot load."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
