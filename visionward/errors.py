"""The errors that visionward raises. Each is one sentence: what was wrong, where, and what to do.

A guard fails closed: every failure raises one of these and never returns a verdict of ``safe``.
"""


class VisionwardError(Exception):
    """Base of every error that visionward raises on purpose."""


class ModelFileError(VisionwardError, ValueError):
    """A model file is missing, damaged, of the wrong format, or does not belong to the other file of the pair."""


class CheckpointError(VisionwardError, ValueError):
    """A Hugging Face checkpoint directory cannot be converted."""


class TokenizerError(CheckpointError):
    """llama.cpp cannot reproduce a checkpoint's tokenizer."""


class QuantizeError(VisionwardError, ValueError):
    """A file cannot be quantized, or an importance matrix cannot be used."""


class OutputError(VisionwardError, OSError):
    """A file cannot be written: the disk is full, a permission is missing, or the folder does not exist."""


class MissingExtraError(VisionwardError, ImportError):
    """A library of an extra is not installed."""


class ImageError(VisionwardError, ValueError):
    """An image cannot be used."""


class ConversationError(VisionwardError, ValueError):
    """A conversation, or its files, cannot be rendered into a prompt."""


class DataError(VisionwardError, ValueError):
    """Samples, or the files that contain them, cannot be used."""


class PolicyError(VisionwardError, ValueError):
    """A category is unknown, malformed, or the policy is empty."""


class ContextLengthError(VisionwardError, ValueError):
    """The prompt has more tokens than the context holds."""


class OptionError(VisionwardError, ValueError):
    """An option of the engine is out of range or unknown, or two exclude each other."""


class NativeLibraryError(VisionwardError, RuntimeError):
    """The installed llama.cpp library is missing, untested, or behaves unexpectedly."""


class ComputeError(VisionwardError, RuntimeError):
    """A computation failed, or its results are not finite."""


class CheckFailedError(ComputeError):
    """A decode left out a cross-attention layer. Its result was discarded."""


class GuardProcessError(ComputeError):
    """The process of a ``GuardProcess`` crashed, was killed, took too long or could not be started."""


class ClassificationCancelledError(VisionwardError, RuntimeError):
    """A classification was cancelled by its caller. There is no verdict."""
