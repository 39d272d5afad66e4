"""How a scan went, in a line or two."""

from collections.abc import Iterator

from visionward.quantities import count_text, time_left_text
from visionward.scan.results import NOT_JUDGED, Results


def summary_lines(results: Results, before: int, seconds: float) -> Iterator[str]:
    """The numbers of samples by outcome, those of this run, and damaged lines.

    Args:
        results: the results.
        before: how many there were when the run began.
        seconds: how long it took.
    """
    outcomes = results.outcomes()
    counts = f"{outcomes['safe']:,} safe, {outcomes['unsafe']:,} unsafe, {outcomes[NOT_JUDGED]:,} not judged"
    yield f"{count_text(len(results), 'sample')}: {counts}"
    yield f"New: {len(results) - before:,}, in {time_left_text(seconds)}"
    if results.damaged:
        yield f"Note: {count_text(results.damaged, 'damaged line')}; the samples of damaged lines were judged again"
