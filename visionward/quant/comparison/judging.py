"""Judging all samples with all models, one after the other."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visionward.quant.comparison.endpoint import EndpointSettings, judge_with_endpoint
from visionward.quant.comparison.guard_run import (
    GuardSettings,
    forget_logits,
    has_logits,
    journal_key,
    judge_with_guard,
)
from visionward.quant.comparison.journal import FeatureError, Journal, Judged, Loaded
from visionward.quant.comparison.logit_store import store_size
from visionward.quant.comparison.models import Endpoint, GuardFiles, check_names
from visionward.quant.comparison.progress import Progress
from visionward.quant.datasets import Dataset
from visionward.quant.samples import Sample
from visionward.runtime.errors import ComputeError, DataError
from visionward.runtime.gguf_header import GgufHeader

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

    Raises:
        DataError: if another comparison works in the same folder.
        ComputeError: if the reference cannot be run.
        ModelFileError: if a file is missing.
    """
    check_names((plan.reference, *plan.candidates, *plan.endpoints))
    samples = {digest: sample for dataset in plan.datasets for digest, sample in dataset.by_digest().items()}
    plan.work.mkdir(parents=True, exist_ok=True)
    # A missing file is better known now than after a night.
    sizes = [pair.size for pair in (plan.reference, *plan.candidates)]
    progress.note(f"{len(samples)} samples, {len(sizes) + len(plan.endpoints)} models")
    with _only_one(plan.work):
        return _judge_all(plan, samples, progress)


def _judge_all(plan: Plan, samples: Mapping[str, Sample], progress: Progress) -> list[ModelResults]:
    reference = _reference_journal(plan, samples, progress)
    journals = [reference]
    try:
        results = [_run_pair(plan, plan.reference, samples, reference, None, progress)]
        if results[0].given_up is not None:
            raise ComputeError(f"the reference {plan.reference.name} cannot be run: {results[0].given_up}")
        for candidate in plan.candidates:
            journal = Journal(plan.work, candidate.name, journal_key(candidate, plan.settings, reference))
            journals.append(journal)
            _note_others(journal, candidate.name, progress)
            results.append(_run_pair(plan, candidate, samples, journal, reference, progress))
        for endpoint in plan.endpoints:
            # Threads and devices are ours: what was paid for is not asked again because of them.
            asked = {name: plan.settings.key()[name] for name in ("policy", "threshold")}
            journal = Journal(plan.work, endpoint.name, {"endpoint": endpoint.identity(), **asked})
            journals.append(journal)
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
        forget_logits(reference)
    return results


def _reference_journal(plan: Plan, samples: Mapping[str, Sample], progress: Progress) -> Journal:
    """The reference's journal; a new one if its logits are gone and a candidate needs them."""
    key = journal_key(plan.reference, plan.settings, None)
    journal = Journal(plan.work, plan.reference.name, key)
    _note_others(journal, plan.reference.name, progress)
    if journal.judged and not has_logits(journal) and _candidates_left(plan, samples, journal):
        progress.note(f"the logits of {plan.reference.name} were removed after the last comparison: it is judged again")
        journal.path.unlink()
        journal = Journal(plan.work, plan.reference.name, key)
    needed = store_size(len(samples), _vocabulary(plan.reference))
    free = shutil.disk_usage(plan.work).free
    if len(journal.judged) < len(samples) and needed > _WORTH_SAYING:
        progress.note(
            f"the reference's logits take up to {needed / 1e9:.2g} GB of {free / 1e9:.0f} GB free in {plan.work}"
            + ("" if plan.keep_logits else ", until the comparison is done")
        )
    return journal


def _vocabulary(files: GuardFiles) -> int:
    """Rows of the embedding, which has a few more than the head; 0 where the file is none of ours, as loading says."""
    found = GgufHeader(files.text).tensors.get(EMBEDDING)
    return 0 if found is None else found.shape[0]


def _candidates_left(plan: Plan, samples: Mapping[str, Sample], reference: Journal) -> bool:
    for candidate in plan.candidates:
        found = Journal(plan.work, candidate.name, journal_key(candidate, plan.settings, reference)).judged
        if any(digest not in found for digest in samples):
            return True
    return False


def _run_pair(
    plan: Plan,
    files: GuardFiles,
    samples: Mapping[str, Sample],
    journal: Journal,
    reference: Journal | None,
    progress: Progress,
) -> ModelResults:
    reason = judge_with_guard(files, samples, plan.settings, journal, reference, progress)
    features = tuple(journal.features.values())
    return ModelResults(files, _of(samples, journal), tuple(journal.loaded), features, reason)


def _of(samples: Mapping[str, Sample], journal: Journal) -> dict[str, Judged]:
    return {digest: found for digest, found in journal.judged.items() if digest in samples}


def _note_others(journal: Journal, name: str, progress: Progress) -> None:
    if not journal.judged and journal.others():
        progress.note(f"{name}: results of other files or settings are in the folder; they are not used")


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
