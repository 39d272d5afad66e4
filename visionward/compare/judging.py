"""Judging all samples with all models, one after the other."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visionward.compare.array_store import store_size
from visionward.compare.datasets import Dataset
from visionward.compare.endpoint import EndpointSettings, check_endpoint, judge_with_endpoint
from visionward.compare.guard_run import (
    GuardSettings,
    arrays_of,
    journal_key,
    judge_with_guard,
    left_to_do,
    missing_arrays,
    open_guard,
)
from visionward.compare.journal import FeatureError, Journal, Judged, Loaded
from visionward.compare.models import Endpoint, GuardFiles, check_names
from visionward.compare.progress import Progress
from visionward.errors import ComputeError, DataError
from visionward.formats.gguf_header import GgufHeader
from visionward.runtime.guard.samples import Sample

if sys.platform != "win32":
    import fcntl

EMBEDDING = "token_embd.weight"
_WORTH_SAYING = 100_000_000


@dataclass(frozen=True)
class Plan:
    """A comparison to make.

    Attributes:
        datasets: what is judged.
        reference: what the others are compared with.
        candidates: other GGUF pairs.
        endpoints: models behind an API.
        settings: of all pairs.
        endpoint_settings: of all endpoints.
        work: folder for results so far.
        keep_logits: leave the reference's logits there, so that more candidates can be added later.
    """

    datasets: tuple[Dataset, ...]
    reference: GuardFiles
    candidates: tuple[GuardFiles, ...]
    endpoints: tuple[Endpoint, ...]
    settings: GuardSettings
    endpoint_settings: EndpointSettings
    work: Path
    keep_logits: bool = False


@dataclass(frozen=True)
class ModelResults:
    """What one model gave.

    Attributes:
        model: which one.
        judged: digest to result.
        loads: every time that it was loaded.
        features: relative errors of vision features.
        given_up: why it could not be run over all samples; None if it could.
    """

    model: GuardFiles | Endpoint
    judged: Mapping[str, Judged]
    loads: tuple[Loaded, ...] = ()
    features: tuple[FeatureError, ...] = ()
    given_up: str | None = None


def judge_all(plan: Plan, progress: Progress) -> list[ModelResults]:
    """Run every model over every sample that it has not judged yet; the reference comes first.

    Every candidate that has something to do is opened before the first sample is judged: a file that cannot be used is
    better known now than after a night.

    Raises:
        DataError: if another comparison works in the same folder, or an endpoint cannot be asked so.
        ComputeError: if a candidate cannot be opened, or the reference cannot be run.
        ModelFileError: if a file is missing.
    """
    check_names((plan.reference, *plan.candidates, *plan.endpoints))
    for endpoint in plan.endpoints:
        check_endpoint(endpoint, plan.settings.policy)
    samples = {digest: sample for dataset in plan.datasets for digest, sample in dataset.by_digest().items()}
    plan.work.mkdir(parents=True, exist_ok=True)
    sizes = [pair.size for pair in (plan.reference, *plan.candidates)]
    progress.note(f"{len(samples)} samples, {len(sizes) + len(plan.endpoints)} models")
    with _only_one(plan.work):
        return _judge_all(plan, samples, progress)


def _judge_all(plan: Plan, samples: Mapping[str, Sample], progress: Progress) -> list[ModelResults]:
    reference = _journal(plan, plan.reference, None, progress)
    pairs = [(candidate, _journal(plan, candidate, reference, progress)) for candidate in plan.candidates]
    journals = [reference, *(journal for _, journal in pairs)]
    needed = {digest for _, journal in pairs for digest in left_to_do(samples, plan.settings, journal)}
    again = missing_arrays(reference, samples, plan.settings, needed)
    _open_candidates(plan, samples, pairs, progress)
    _note_arrays(plan, samples, reference, again, progress)
    try:
        results = [_run_pair(plan, plan.reference, samples, reference, None, progress, again)]
        if results[0].given_up is not None:
            raise ComputeError(f"the reference {plan.reference.name} cannot be run: {results[0].given_up}")
        results += [_run_pair(plan, candidate, samples, journal, reference, progress) for candidate, journal in pairs]
        for endpoint in plan.endpoints:
            # Threads and devices are ours: what was paid for is not asked again because of them.
            asked = {name: plan.settings.key()[name] for name in ("policy", "threshold")}
            journal = Journal(plan.work, endpoint.name, {"endpoint": endpoint.identity(), **asked})
            journals.append(journal)
            _note_damage(journal, progress)
            reason = judge_with_endpoint(
                endpoint,
                samples,
                plan.settings.policy,
                plan.settings.threshold,
                plan.endpoint_settings,
                journal,
                progress,
            )
            results.append(ModelResults(endpoint, _of(samples, journal), given_up=reason))
    finally:
        for journal in journals:
            journal.close()
    if not plan.keep_logits:
        arrays_of(reference).remove()
    return results


def _journal(plan: Plan, files: GuardFiles, reference: Journal | None, progress: Progress) -> Journal:
    journal = Journal(plan.work, files.name, journal_key(files, plan.settings, reference))
    if not journal.judged and journal.others():
        progress.note(f"{files.name}: results of other files or settings are in the folder; they are not used")
    _note_damage(journal, progress)
    return journal


def _note_damage(journal: Journal, progress: Progress) -> None:
    if journal.damaged:
        lines = "1 line is" if journal.damaged == 1 else f"{journal.damaged} lines are"
        progress.note(f"{journal.path}: {lines} damaged and not used; what is missing is judged again")


def _open_candidates(
    plan: Plan, samples: Mapping[str, Sample], pairs: list[tuple[GuardFiles, Journal]], progress: Progress
) -> None:
    """Open every candidate that has something to do; the reference is the first to judge, and so is opened then."""
    failed = {}
    for files, journal in pairs:
        if not left_to_do(samples, plan.settings, journal):
            continue
        progress.note(f"opening {files.name}")
        reason = open_guard(files, plan.settings)
        if reason is not None:
            failed[files.name] = reason
    if failed:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failed.items())
        which = f"{len(failed)} of {len(pairs)} candidates cannot be used"
        raise ComputeError(f"nothing was judged, because {which}: {reasons}")


def _note_arrays(
    plan: Plan, samples: Mapping[str, Sample], reference: Journal, again: frozenset[str], progress: Progress
) -> None:
    """Say what the reference's arrays will take, and which of them have to be made again."""
    if again:
        which = "sample is" if len(again) == 1 else "samples are"
        progress.note(
            f"the logits of {plan.reference.name} were removed after the last comparison, or are damaged: "
            f"{len(again)} {which} judged again"
        )
    left = len(again) + sum(digest not in reference.judged for digest in samples)
    needed = store_size(left, _vocabulary(plan.reference))
    free = shutil.disk_usage(plan.work).free
    if needed > _WORTH_SAYING:
        progress.note(
            f"the reference's logits take up to {needed / 1e9:.2g} GB of {free / 1e9:.0f} GB free in {plan.work}"
            + ("" if plan.keep_logits else ", until the comparison is done")
        )


def _vocabulary(files: GuardFiles) -> int:
    """Rows of the embedding, which has a few more than the head; 0 where the file is none of ours, as loading says."""
    found = GgufHeader(files.text).tensors.get(EMBEDDING)
    return 0 if found is None else found.shape[0]


def _run_pair(
    plan: Plan,
    files: GuardFiles,
    samples: Mapping[str, Sample],
    journal: Journal,
    reference: Journal | None,
    progress: Progress,
    again: frozenset[str] = frozenset(),
) -> ModelResults:
    reason = judge_with_guard(files, samples, plan.settings, journal, reference, progress, again)
    features = tuple(journal.features.values())
    return ModelResults(files, _of(samples, journal), tuple(journal.loaded), features, reason)


def _of(samples: Mapping[str, Sample], journal: Journal) -> dict[str, Judged]:
    return {digest: found for digest, found in journal.judged.items() if digest in samples}


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Two comparisons must not write the same journals."""
    with (work / "lock").open("w", encoding="utf-8") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as cause:
                raise DataError(f"{work}: another comparison is running in this folder") from cause
        file.write(json.dumps({"pid": os.getpid()}))
        file.flush()
        yield
