"""How much of a vision tower each of ONNX Runtime's providers for GPUs computes here. Each is tried in a child process.

Whether a provider starts depends on drivers and libraries that only its use shows, and one may crash.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from visionward.errors import VisionwardError
from visionward.machine.python_process import PythonProcess, Sender, exit_text
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession

TIMEOUT_S = 120.0
_EXIT_S = 5.0


@dataclass(frozen=True)
class ProviderResult:
    """The result for one provider.

    Attributes:
        provider: ONNX Runtime's name.
        problem: why it cannot be used; None if it can.
        left: what it leaves to the CPU, as a phrase; None if it computes everything or does not report it.
    """

    provider: str
    problem: str | None = None
    left: str | None = None


def probe_provider(provider: str) -> ProviderResult:
    """Load the demonstration guard's tower with a provider, in a child process."""
    try:
        child = PythonProcess(_load, (provider,), subprocess.DEVNULL)
    except OSError as error:
        return ProviderResult(provider, f"the child process could not be started ({error})")
    exit_code: int | None = None
    try:
        result = child.receive(TIMEOUT_S)
        if isinstance(result, ProviderResult):
            return result
    except TimeoutError:
        return ProviderResult(provider, f"it did not load in {TIMEOUT_S:.0f} s")
    except EOFError:
        exit_code = child.wait(_EXIT_S)
    finally:
        child.close()
    return ProviderResult(provider, f"the process that tried it ended with {exit_text(exit_code)}")


def _load(provider: str, sender: Sender) -> None:
    """The child process."""
    from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415 - the parent does without
    from visionward.convert.onnx_file import export_tower  # noqa: PLC0415

    try:
        with tempfile.TemporaryDirectory() as folder:
            tower = export_tower(demo_pair().mmproj, Path(folder) / "vision-probe.onnx")
            session = OnnxRuntimeSession(tower, threads=1, provider=provider)
            share = session.share
            session.close()
    except (VisionwardError, OSError) as error:
        sender.send(ProviderResult(provider, str(error)))
        return
    sender.send(ProviderResult(provider, left=str(share) if share is not None and share.left else None))
