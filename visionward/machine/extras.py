"""Libraries of the extra ``compare``: imported where they are needed, and named where they are missing."""

from importlib import import_module
from typing import Any

from visionward.errors import VisionwardError


class MissingExtraError(VisionwardError, ImportError):
    """A library of an extra is not installed."""


def require(*modules: str) -> Any:
    """Import modules; the first one is returned.

    Raises:
        MissingExtraError: if one is not installed; the message says how to.
    """
    try:
        first, *_ = [import_module(module) for module in modules]
    except ImportError as cause:
        raise MissingExtraError(
            f"{cause.name or cause} is not installed; comparisons need more: pip install 'visionward[compare]'"
        ) from cause
    return first
