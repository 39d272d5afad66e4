"""A scan on one machine: every sample gets one result, however often the scan is interrupted and started again."""

from collections.abc import Iterable
from typing import Any

from visionward.errors import VisionwardError
from visionward.progress import OnProgress, ProgressCounter
from visionward.scan.item import Item
from visionward.scan.options import ScanOptions
from visionward.scan.pool import DEFAULT_DEADLINE_S, Pool
from visionward.scan.results import Results
from visionward.scan.worker import judged_row


def scan(
    items: Iterable[Item],
    results: Results,
    options: ScanOptions,
    jobs: int,
    *,
    deadline_s: float = DEFAULT_DEADLINE_S,
    total: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Judge the samples that have no result yet.

    A sample with the content of another one is not judged again, but gets a copy of its result.

    Args:
        items: the samples.
        results: gets the results.
        options: the model, and how it judges.
        jobs: number of processes.
        deadline_s: seconds within which a process must finish a sample.
        total: number of the samples; 0 if it is unknown, and nothing is reported.
        on_progress: called for each result, on another thread.

    Raises:
        VisionwardError: if a guard cannot be loaded, or a result cannot be written.
    """
    progress = ProgressCounter(on_progress, "scanning", total, "samples", min(len(results), total))
    # Id -> samples with this content, of which the first one is being judged.
    waiting: dict[str, list[Item]] = {}

    def write(identifier: str, judged: dict[str, Any]) -> None:
        first, *others = waiting.pop(identifier)
        results.append(first, identifier, judged)
        for item in others:
            results.append(item, identifier, judged, copy_of=first.name)
        progress.advance(1 + len(others))

    with Pool(options, jobs, write, deadline_s) as pool:
        for item in map(Item.read, items):
            identifier = options.item_id(item)
            # The pool's threads write results under this lock.
            with pool.lock:
                if results.has(item, identifier):
                    continue
                if identifier in waiting:
                    if all(item.place != other.place for other in waiting[identifier]):
                        waiting[identifier].append(item)
                    continue
                if isinstance(item.content, VisionwardError):
                    results.append(item, identifier, judged_row(None, item.content))
                elif (found := results.of_equal_content(identifier)) is not None:
                    results.append(item, identifier, found, copy_of=found["copy_of"] or found["name"])
                else:
                    waiting[identifier] = [item]
                    pool.submit(identifier, item.content)
                    continue
            progress.advance(1)
        pool.finish()
