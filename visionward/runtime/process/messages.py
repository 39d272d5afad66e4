"""What a guard's process and the one that started it send to each other."""

import pickle
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from visionward.errors import GuardProcessError
from visionward.progress import Progress
from visionward.runtime.engine_options import EngineKeywords
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.process.shared_arguments import Packed


@dataclass(frozen=True)
class Start:
    """What the process loads.

    Attributes:
        pair: absolute paths of the text and mmproj files; None for the demonstration guard.
        options: the fields of ``EngineOptions``.
        shared: the descriptor of the shared file; None if there is none.
        reports_progress: whether to send the progress of loading.
        log_level: lines of the logger ``visionward`` from this level on are sent.
    """

    pair: tuple[str, str] | None
    options: EngineKeywords
    shared: int | None
    reports_progress: bool
    log_level: int


@dataclass(frozen=True)
class Call:
    """Classify.

    Attributes:
        packed: the arguments.
        folder: the working directory that relative paths are relative to; None if there is none.
        reports_progress: whether to send the progress.
        reports_logits: whether to send the logits after the prompt.
    """

    packed: Packed
    folder: str | None
    reports_progress: bool
    reports_logits: bool


@dataclass(frozen=True)
class Cancel:
    """End the current classification."""


@dataclass(frozen=True)
class Loaded:
    """The model was loaded.

    Attributes:
        model: file name of the text GGUF.
        device: the device of the vision tower and the cross-attention layers.
        vision_backend: the engine that runs the vision tower.
    """

    model: str
    device: str
    vision_backend: str


@dataclass(frozen=True)
class Advanced:
    """Loading or classifying made progress."""

    progress: Progress


@dataclass(frozen=True, eq=False)
class Observed:
    """The logits after the prompt, float32 (rows,)."""

    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Logged:
    """A line of the log."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class Judged:
    """The verdict of the current classification."""

    verdict: Verdict


@dataclass(frozen=True)
class Failed:
    """Loading or the current classification raised an exception.

    Attributes:
        error: the exception, pickled; None if it cannot be.
        text: its type and text.
    """

    error: bytes | None
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """An exception as a message."""
        text = f"{type(error).__name__}: {error}"
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)  # noqa: S301 - exceptions whose arguments differ from their fields fail here
        except Exception:  # noqa: BLE001 - whatever a foreign exception's own pickling raises
            return cls(None, text)
        return cls(pickled, text)

    def exception(self) -> Exception:
        """The exception, of the same class and with the same text, or a GuardProcessError that quotes it."""
        if self.error is not None:
            try:
                error = pickle.loads(self.error)  # noqa: S301 - our own process wrote it
            except Exception:  # noqa: BLE001 - its class may be missing here
                return GuardProcessError(f"the guard's process raised {self.text}")
            if isinstance(error, Exception):
                return error
        return GuardProcessError(f"the guard's process raised {self.text}")
