"""Llama Guard 3 11B Vision on your own machine: quantized, on unmodified llama.cpp, without the cloud."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from visionward.errors import (
    CheckFailedError,
    CheckpointError,
    ClassificationCancelledError,
    ComputeError,
    ContextLengthError,
    ConversationError,
    DataError,
    GuardProcessError,
    ImageError,
    MissingExtraError,
    ModelFileError,
    NativeLibraryError,
    OptionError,
    OutputError,
    PolicyError,
    QuantizeError,
    TokenizerError,
    VisionwardError,
)

if TYPE_CHECKING:
    from visionward.formats.tile_band import TileBand
    from visionward.machine.python_process import freeze_support
    from visionward.progress import OnProgress, Progress
    from visionward.runtime.cancellation import CancelToken
    from visionward.runtime.engine import Engine
    from visionward.runtime.engine_options import EngineOptions
    from visionward.runtime.guard.batch import BatchResult, BatchSample
    from visionward.runtime.guard.conversation import Conversation
    from visionward.runtime.guard.guard import Guard
    from visionward.runtime.guard.message import ImagePart, Message, TextPart
    from visionward.runtime.guard.policy import DEFAULT_POLICY, Category, Policy
    from visionward.runtime.guard.samples import Sample
    from visionward.runtime.guard.verdict import CategoryScore, Timings, TokenCounts, Verdict
    from visionward.runtime.images.frame_count import FrameCount
    from visionward.runtime.images.images import ImageSource
    from visionward.runtime.process.guard_process import GuardProcess

__all__ = [
    "DEFAULT_POLICY",
    "BatchResult",
    "BatchSample",
    "CancelToken",
    "Category",
    "CategoryScore",
    "CheckFailedError",
    "CheckpointError",
    "ClassificationCancelledError",
    "ComputeError",
    "ContextLengthError",
    "Conversation",
    "ConversationError",
    "DataError",
    "Engine",
    "EngineOptions",
    "FrameCount",
    "Guard",
    "GuardProcess",
    "GuardProcessError",
    "ImageError",
    "ImagePart",
    "ImageSource",
    "Message",
    "MissingExtraError",
    "ModelFileError",
    "NativeLibraryError",
    "OnProgress",
    "OptionError",
    "OutputError",
    "Policy",
    "PolicyError",
    "Progress",
    "QuantizeError",
    "Sample",
    "TextPart",
    "TileBand",
    "Timings",
    "TokenCounts",
    "TokenizerError",
    "Verdict",
    "VisionwardError",
    "freeze_support",
]

# Imported at first use: importing visionward is quick, and `visionward doctor` runs without a loadable native library.
_MODULES = {
    "DEFAULT_POLICY": "visionward.runtime.guard.policy",
    "BatchResult": "visionward.runtime.guard.batch",
    "BatchSample": "visionward.runtime.guard.batch",
    "CancelToken": "visionward.runtime.cancellation",
    "Category": "visionward.runtime.guard.policy",
    "CategoryScore": "visionward.runtime.guard.verdict",
    "Conversation": "visionward.runtime.guard.conversation",
    "Engine": "visionward.runtime.engine",
    "EngineOptions": "visionward.runtime.engine_options",
    "FrameCount": "visionward.runtime.images.frame_count",
    "Guard": "visionward.runtime.guard.guard",
    "GuardProcess": "visionward.runtime.process.guard_process",
    "ImagePart": "visionward.runtime.guard.message",
    "ImageSource": "visionward.runtime.images.images",
    "Message": "visionward.runtime.guard.message",
    "OnProgress": "visionward.progress",
    "Policy": "visionward.runtime.guard.policy",
    "Progress": "visionward.progress",
    "Sample": "visionward.runtime.guard.samples",
    "TextPart": "visionward.runtime.guard.message",
    "TileBand": "visionward.formats.tile_band",
    "Timings": "visionward.runtime.guard.verdict",
    "TokenCounts": "visionward.runtime.guard.verdict",
    "Verdict": "visionward.runtime.guard.verdict",
    "freeze_support": "visionward.machine.python_process",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name == "__version__":
        from visionward.machine.packages import installed_version  # noqa: PLC0415 - importing it takes long

        return installed_version("visionward")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
