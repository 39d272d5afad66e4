"""How a scan went, in a line or two."""

from collections.abc import Iterator, Mapping

from visionward.quantities import count_text, time_left_text
from visionward.scan.results import NOT_JUDGED


def summary_lines(outcomes: Mapping[str, int], before: int, seconds: float, damaged: int = 0) -> Iterator[str]:
    """The numbers of samples by outcome, those of this run, and damaged lines.

    Args:
        outcomes: how many samples are safe, unsafe and not judged.
        before: how many results there were when the run began.
        seconds: how long it took.
        damaged: lines of the results that could not be read.
    """
    total = sum(outcomes.values())
    counts = f"{outcomes['safe']:,} safe, {outcomes['unsafe']:,} unsafe, {outcomes[NOT_JUDGED]:,} not judged"
    yield f"{count_text(total, 'sample')}: {counts}"
    yield f"New: {total - before:,}, in {time_left_text(seconds)}"
    if damaged:
        yield f"Note: {count_text(damaged, 'damaged line')}; the samples of damaged lines were judged again"
