"""Running a GGUF pair over the samples: a child process judges, this one writes the journal."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionward.quant.comparison.guard_process import Begun, Failed, Finished, Item, Message, Task, run_guard
from visionward.quant.comparison.journal import Journal, Judged
from visionward.quant.comparison.models import GuardFiles
from visionward.quant.comparison.progress import Progress
from visionward.quant.samples import Sample
from visionward.runtime.errors import ComputeError
from visionward.runtime.policy import Policy
from visionward.runtime.python_process import PythonProcess

# A file that crashes the process this many times is given up; a single sample that does is skipped.
MOST_CRASHES = 3
_JOIN_S = 10.0


@dataclass(frozen=True)
class GuardSettings:
    """How every pair is run.

    Attributes:
        policy: categories in force.
        threshold: unsafe from this score on.
        threads: CPU threads; None for the default.
        gpu_layers: decoder layers on the GPU; None for the default.
        feature_images: so many images' vision features are compared.
    """

    policy: Policy
    threshold: float
    threads: int | None = None
    gpu_layers: int | None = None
    feature_images: int = 4

    def key(self) -> dict[str, Any]:
        """What results depend on."""
        return {
            "policy": self.policy.prompt_categories(),
            "threshold": self.threshold,
            "threads": self.threads,
            "gpu_layers": self.gpu_layers,
        }


def journal_key(files: GuardFiles, settings: GuardSettings, reference: Journal | None) -> dict[str, Any]:
    """What a pair's results depend on besides the samples."""
    return {
        "files": files.identity(),
        "settings": settings.key(),
        "reference": None if reference is None else reference.key,
    }


def logits_path(reference: Journal) -> Path:
    """Where the reference's first-token logits are."""
    return reference.path.with_suffix(".logits")


def features_path(reference: Journal) -> Path:
    """Folder of the reference's vision features."""
    return reference.path.with_suffix(".features")


def judge_with_guard(
    files: GuardFiles,
    samples: Mapping[str, Sample],
    settings: GuardSettings,
    journal: Journal,
    reference: Journal | None,
    progress: Progress,
) -> str | None:
    """Judge what the journal does not have yet.

    Args:
        files: the pair.
        samples: digest to sample.
        settings: of all pairs.
        journal: where results go.
        reference: the reference's journal; None if this is the reference.
        progress: told of every sample.

    Returns:
        Why the pair was given up; None if every sample was judged or skipped.

    Raises:
        ComputeError: if the reference's logits are needed and gone.
    """
    shown = _feature_digests(samples, settings.feature_images)
    done = sum(digest in journal.judged for digest in samples)
    progress.begin(files.name, done, len(samples))
    crashes = 0
    while left := [digest for digest in samples if digest not in journal.judged]:
        items = tuple(_item(digest, samples[digest], reference, features=digest in shown) for digest in left)
        rows = None if reference is None or not reference.loaded else reference.loaded[-1].rows
        task = Task(
            files,
            items,
            settings.policy,
            settings.threshold,
            settings.threads,
            settings.gpu_layers,
            logits_path(reference or journal),
            features_path(reference or journal),
            rows,
            journal.next_slot,
        )
        task.features.mkdir(exist_ok=True)
        with _child(task) as process:
            current = None
            for message in _messages(process):
                if isinstance(message, Failed):
                    return message.reason
                if isinstance(message, Finished):
                    break
                if isinstance(message, Begun):
                    current = message.digest
                    continue
                journal.append(message)
                if isinstance(message, Judged):
                    progress.advance(files.name)
            else:
                crashes += 1
                reason = f"the process died ({_how(process.wait(_JOIN_S))})"
                if current is None or crashes >= MOST_CRASHES:
                    return f"{reason}, {crashes} times" if crashes > 1 else f"{reason} while it loaded the model"
                if current not in journal.judged:
                    progress.note(f"{files.name}: {reason}; going on with the next sample")
                    journal.append(Judged(current, reason=f"{reason} while it judged this"))
                    progress.advance(files.name)
    return None


def _item(digest: str, sample: Sample, reference: Journal | None, *, features: bool) -> Item:
    found = None if reference is None else reference.judged.get(digest)
    return Item(digest, sample, () if found is None else found.slots, features)


def _feature_digests(samples: Mapping[str, Sample], count: int) -> set[str]:
    with_image = [digest for digest, sample in samples.items() if sample.conversation.images]
    return set(with_image[:count])


def _messages(process: PythonProcess) -> Iterator[Message]:
    while True:
        try:
            yield process.receive()
        except EOFError:
            return


def _how(code: int | None) -> str:
    if code is None:
        return "it hangs"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def _child(task: Task) -> Iterator[PythonProcess]:
    """A process that runs a task; it is ended with the block."""
    try:
        process = PythonProcess(run_guard, (task,), None)
    except OSError as cause:
        raise ComputeError(f"no process could be started: {cause.strerror or cause}") from cause
    try:
        yield process
    finally:
        process.close()


def forget_logits(reference: Journal) -> None:
    """Remove the reference's logits and features."""
    logits_path(reference).unlink(missing_ok=True)
    folder = features_path(reference)
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def has_logits(reference: Journal) -> bool:
    """Whether the logits of everything that the reference judged are on the disk."""
    path = logits_path(reference)
    rows = reference.loaded[-1].rows if reference.loaded else 0
    size = path.stat().st_size if path.exists() else 0
    return size >= reference.next_slot * rows * 4
