"""A guard whose engine runs in a child process."""

import contextlib
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionward.progress import OnProgress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.derived_calls import DerivedCalls
from visionward.runtime.guard.verdict import Verdict
from visionward.runtime.process.messages import Start
from visionward.runtime.process.supervisor import Supervisor
from visionward.runtime.worker import Worker

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.engine_options import EngineKeywords
    from visionward.runtime.guard.classify_keywords import JudgeKeywords
    from visionward.runtime.guard.judgement import Observer


class GuardProcess(DerivedCalls):
    """A ``Guard`` in a child process, which a native crash, a memory kill or a hang ends without ending this program.

    For example:

        with GuardProcess.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf", deadline_s=120) as guard:
            verdict = guard.classify(image="photo.jpg", prompt="What is in this picture?")

    If the process ends during a call, that call raises a ``GuardProcessError`` and the next one starts another process.
    Threads may share a guard. Their calls are executed one after the other. The process ends with this one, however
    this one ends. The caller's main module is not imported in it.
    """

    def __init__(self, start: Start, deadline_s: float | None, on_progress: OnProgress | None) -> None:
        if deadline_s is not None and not deadline_s > 0:
            raise ValueError(f"deadline_s is {deadline_s}; it must be greater than 0.")
        stack = contextlib.ExitStack()
        self._worker = Worker(stack.close)
        weakref.finalize(self, self._worker.close)
        try:
            self._supervisor = Supervisor(start, deadline_s, self._worker.check_cancelled)
            stack.callback(self._supervisor.close)
            self._worker.run(partial(self._supervisor.start, on_progress))
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(
        cls,
        text_gguf: str | PathLike[str],
        mmproj_gguf: str | PathLike[str],
        *,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
        **options: "Unpack[EngineKeywords]",
    ) -> "GuardProcess":
        """Start a process and load a GGUF pair in it.

        Args:
            text_gguf: the text file, written by `visionward convert`.
            mmproj_gguf: the mmproj file of the same conversion, of any type.
            deadline_s: seconds that one call may take in the process, without waiting for other calls. After that the
                process is ended. None for no limit.
            on_progress: called while files are checked, on another thread.
            options: the fields of ``EngineOptions``, as keywords.

        Raises:
            ModelFileError: a file is missing, damaged or of another type, or the files do not belong together.
            GuardProcessError: the process cannot be started, or ended while it loaded the model.
            ComputeError: there is not enough memory.
            NativeLibraryError: the installed llama.cpp is not a version that visionward was tested with.
            OptionError: an option is out of range or unknown, or two exclude each other.
        """
        pair = (os.path.abspath(text_gguf), os.path.abspath(mmproj_gguf))  # noqa: PTH100 - follows no links
        return cls._of(pair, deadline_s, on_progress, options)

    @classmethod
    def demo(
        cls,
        *,
        deadline_s: float | None = None,
        on_progress: OnProgress | None = None,
        **options: "Unpack[EngineKeywords]",
    ) -> "GuardProcess":
        """Start a process with the demonstration guard, a toy model for checking the installation.

        It is converted into the user's cache folder at first use, which takes seconds.

        Args:
            deadline_s: see `load`.
            on_progress: see `load`.
            options: see `load`.

        Raises:
            VisionwardError: the model cannot be converted, or what `load` raises.
        """
        return cls._of(None, deadline_s, on_progress, options)

    @classmethod
    def _of(
        cls,
        pair: tuple[str, str] | None,
        deadline_s: float | None,
        on_progress: OnProgress | None,
        options: "EngineKeywords",
    ) -> "GuardProcess":
        EngineOptions(**options)  # an invalid option is refused before a process is started
        if (tower := options.get("onnx_tower")) is not None:
            options["onnx_tower"] = Path(tower).absolute()
        return cls(Start(pair, options, None, on_progress is not None, logging.WARNING), deadline_s, on_progress)

    def classify(
        self,
        conversation: Conversation | Sequence[Mapping[str, Any]] | None = None,
        *,
        observe: "Observer | None" = None,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
        **arguments: "Unpack[JudgeKeywords]",
    ) -> Verdict:
        """Judge the last message of a conversation, as ``Guard.classify`` does.

        Args:
            conversation: messages, or a Conversation. What it holds must be picklable: text, paths, bytes, PIL images
                and arrays are.
            observe: called with the logits after the prompt, on another thread.
            on_progress: called for each layer of the tower and each ubatch of a prompt, on another thread.
            cancel: ends the classification: within one layer, or at once while it waits for others.
            arguments: the other keyword arguments of ``Guard.classify``.

        Raises:
            GuardProcessError: the process ended, exceeded its deadline or cannot be started, or an argument cannot be
                pickled.
            VisionwardError: whatever ``Guard.classify`` raises.
        """
        if "exclude" in arguments:
            arguments["exclude"] = tuple(arguments["exclude"])
        judged: dict[str, Any] = {"conversation": conversation, **arguments}
        job = partial(self._supervisor.classify, judged, _working_folder(), on_progress, observe)
        return self._worker.run(job, cancel)

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now; None if none does."""
        return self._supervisor.pid

    @property
    def is_available(self) -> bool:
        """Whether calls are served: neither after ``close`` nor while a process that failed to start has to wait."""
        return not self._worker.closed and self._supervisor.retry_in_s == 0

    def close(self) -> None:
        """End the process after the calls that wait. Calling it again has no effect."""
        self._worker.close()

    def __repr__(self) -> str:
        loaded, pid = self._supervisor.loaded, self.pid
        what = "not loaded" if loaded is None else f"{loaded.model}, device {loaded.device}"
        return f"<GuardProcess {what}, {'no process' if pid is None else f'process {pid}'}>"


def _working_folder() -> str | None:
    with contextlib.suppress(OSError):
        return str(Path.cwd())
    return None
