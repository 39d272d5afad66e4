"""Judging all samples with all models, one model after the other."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from visionward.compare.array_store import store_size
from visionward.compare.endpoint import check_endpoint, judge_with_endpoint
from visionward.compare.guard_run import (
    arrays_of,
    journal_key,
    judge_with_guard,
    left_to_do,
    missing_arrays,
    open_guard,
)
from visionward.compare.journal import Journal, Judged
from visionward.compare.models import Endpoint, GuardFiles, check_names, file_size
from visionward.compare.plan import ComparisonPlan
from visionward.compare.results import ModelResults
from visionward.errors import ComputeError, DataError
from visionward.formats.file_lock import try_lock
from visionward.formats.gguf_header import GgufHeader
from visionward.progress import OnProgress
from visionward.runtime.guard.samples import Sample

EMBEDDING = "token_embd.weight"
# Smaller stores are not logged.
_MIN_NOTED_BYTES = 100_000_000

logger = logging.getLogger(__name__)


def judge_all(plan: ComparisonPlan, work: Path, on_progress: OnProgress | None = None) -> list[ModelResults]:
    """Judge every sample that a model has not judged yet, the reference first.

    Every candidate with samples left is opened before the first sample is judged, so that a file that cannot be used is
    found at once.

    Args:
        plan: models, samples and settings.
        work: folder for results so far.
        on_progress: called after every sample; its stage is the model's name.

    Raises:
        DataError: if another comparison runs in the same folder, or an endpoint cannot be told of the policy.
        ComputeError: if a candidate cannot be opened, or the reference cannot be run.
        ModelFileError: if a file is missing.
        PolicyError: if a band is for another threshold or policy.
    """
    check_names((plan.reference, *plan.candidates, *plan.endpoints))
    for endpoint in plan.endpoints:
        check_endpoint(endpoint, plan.settings.policy)
    for pair in plan.pairs:
        if pair.band is not None:
            pair.band.check_verdict(plan.settings.threshold, plan.settings.policy.digest)
    for path in (path for pair in plan.pairs for path in pair.files):
        file_size(path)
    samples = {digest: sample for dataset in plan.datasets for digest, sample in dataset.by_digest().items()}
    work.mkdir(parents=True, exist_ok=True)
    logger.info("%d samples, %d models", len(samples), 1 + len(plan.candidates) + len(plan.endpoints))
    with _only_one(work):
        return _Run(plan, work, samples, on_progress).judge_all()


@dataclass(frozen=True)
class _Run:
    plan: ComparisonPlan
    work: Path
    samples: Mapping[str, Sample]
    on_progress: OnProgress | None

    def judge_all(self) -> list[ModelResults]:
        plan = self.plan
        reference = self._journal(plan.reference, None)
        pairs = [(candidate, self._journal(candidate, reference)) for candidate in plan.candidates]
        journals = [reference, *(journal for _, journal in pairs)]
        needed = {digest for _, journal in pairs for digest in left_to_do(self.samples, plan.settings, journal)}
        again = missing_arrays(reference, self.samples, plan.settings, needed)
        self._open_candidates(pairs)
        self._note_arrays(reference, again)
        try:
            results = [self._run_pair(plan.reference, reference, None, again)]
            if results[0].given_up is not None:
                raise ComputeError(f"the reference {plan.reference.name} cannot be run: {results[0].given_up}")
            results += [self._run_pair(candidate, journal, reference) for candidate, journal in pairs]
            for endpoint in plan.endpoints:
                journal = self._endpoint_journal(endpoint)
                journals.append(journal)
                results.append(self._ask(endpoint, journal))
        finally:
            for journal in journals:
                journal.close()
        if not plan.keep_logits:
            arrays_of(reference).remove()
        return results

    def _journal(self, files: GuardFiles, reference: Journal | None) -> Journal:
        journal = Journal(self.work, files.name, journal_key(files, self.plan.settings, reference))
        if not journal.judged and journal.others():
            logger.warning("%s: the folder has results of other files or settings, which are not used", files.name)
        _note_damage(journal)
        return journal

    def _endpoint_journal(self, endpoint: Endpoint) -> Journal:
        # Threads and devices do not matter to an endpoint: answers that were paid for are kept.
        asked = {name: self.plan.settings.key()[name] for name in ("policy", "threshold")}
        journal = Journal(self.work, endpoint.name, {"endpoint": endpoint.identity(), **asked})
        _note_damage(journal)
        return journal

    def _open_candidates(self, pairs: list[tuple[GuardFiles, Journal]]) -> None:
        """Open every candidate with samples left. The reference judges first, and is opened then."""
        failed = {}
        for files, journal in pairs:
            if not left_to_do(self.samples, self.plan.settings, journal):
                continue
            logger.info("opening %s", files.name)
            reason = open_guard(files, self.plan.settings)
            if reason is not None:
                failed[files.name] = reason
        if failed:
            reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failed.items())
            which = f"{len(failed)} of {len(pairs)} candidates cannot be used"
            raise ComputeError(f"no sample was judged, because {which}: {reasons}")

    def _note_arrays(self, reference: Journal, again: frozenset[str]) -> None:
        """Log how much disk the reference's arrays take, and which of them have to be computed again."""
        name = self.plan.reference.name
        if again:
            which = "sample is" if len(again) == 1 else "samples are"
            logger.info(
                "%s: logits were removed after the last comparison, or are damaged: %d %s judged again",
                name,
                len(again),
                which,
            )
        left = len(again) + sum(digest not in reference.judged for digest in self.samples)
        needed = store_size(left, _vocabulary(self.plan.reference))
        if needed > _MIN_NOTED_BYTES:
            logger.info(
                "%s: logits take up to %.2g GB of %.0f GB free in %s%s",
                name,
                needed / 1e9,
                shutil.disk_usage(self.work).free / 1e9,
                self.work,
                "" if self.plan.keep_logits else ", until the comparison is done",
            )

    def _run_pair(
        self, files: GuardFiles, journal: Journal, reference: Journal | None, again: frozenset[str] = frozenset()
    ) -> ModelResults:
        reason = judge_with_guard(files, self.samples, self.plan.settings, journal, reference, self.on_progress, again)
        features = tuple(journal.features.values())
        return ModelResults(files, self._judged(journal), tuple(journal.loaded), features, reason)

    def _ask(self, endpoint: Endpoint, journal: Journal) -> ModelResults:
        settings = self.plan.settings
        reason = judge_with_endpoint(
            endpoint,
            self.samples,
            settings.policy,
            settings.threshold,
            self.plan.endpoint_settings,
            journal,
            self.on_progress,
        )
        return ModelResults(endpoint, self._judged(journal), given_up=reason)

    def _judged(self, journal: Journal) -> dict[str, Judged]:
        return {digest: found for digest, found in journal.judged.items() if digest in self.samples}


def _note_damage(journal: Journal) -> None:
    if journal.damaged:
        lines = "1 line is" if journal.damaged == 1 else f"{journal.damaged} lines are"
        logger.warning("%s: %s damaged and not used; these samples are judged again", journal.path, lines)


def _vocabulary(files: GuardFiles) -> int:
    """Rows of the embedding, a few more than the head has; 0 if the file has none, as loading it will say."""
    found = GgufHeader(files.text).tensors.get(EMBEDDING)
    return 0 if found is None else found.shape[0]


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Two comparisons must not write the same journals."""
    with (work / "lock").open("w", encoding="utf-8") as file:
        if not try_lock(file):
            raise DataError(f"{work}: another comparison is running in this folder")
        file.write(json.dumps({"pid": os.getpid()}))
        file.flush()
        yield
