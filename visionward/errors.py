"""The errors that visionward raises: one clear sentence each, what was wrong, where, what to do.

A guard fails closed: whatever goes wrong ends in one of these, never in a verdict of ``safe``.
"""


class VisionwardError(Exception):
    """Base of every error that visionward raises on purpose."""


class ModelFileError(VisionwardError, ValueError):
    """A GGUF file is missing, damaged, of another kind, or does not belong to its partner."""


class CheckpointError(VisionwardError, ValueError):
    """A Hugging Face checkpoint directory cannot be converted."""


class TokenizerError(CheckpointError):
    """A checkpoint's tokenizer is not one that llama.cpp can reproduce."""


class QuantizeError(VisionwardError, ValueError):
    """A file cannot be quantized, or its importance matrix cannot be used."""


class ImageError(VisionwardError, ValueError):
    """An image that was given cannot be used."""


class ConversationError(VisionwardError, ValueError):
    """A conversation, or its files, cannot be rendered into a prompt."""


class DataError(VisionwardError, ValueError):
    """Samples, or the files that hold them, cannot be used."""


class PolicyError(VisionwardError, ValueError):
    """A category is unknown, malformed, or the policy is empty."""


class ContextLengthError(VisionwardError, ValueError):
    """The prompt has more tokens than the context holds."""


class NativeLibraryError(VisionwardError, RuntimeError):
    """The installed llama.cpp library is missing, untested, or behaves unexpectedly."""


class ComputeError(VisionwardError, RuntimeError):
    """A computation failed or gave numbers that are no verdict."""


class CheckFailedError(ComputeError):
    """A decode left out a cross-attention layer; its result was thrown away."""


class ClassificationCancelledError(VisionwardError, RuntimeError):
    """A classification was cancelled by its caller. There is no verdict."""
