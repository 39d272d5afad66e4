"""Progress that long work reported: every stage from nothing to the whole, one after the other."""

from itertools import groupby


def stages(reports):
    """The stages in order; every one begins at 0, rises, and ends at its total."""
    found = []
    for (stage, total, _), group in groupby(reports, lambda report: (report.stage, report.total, report.unit)):
        done = [report.done for report in group]
        assert done[0] == 0
        assert done == sorted(done)
        assert done[-1] == total > 0
        found.append(stage)
    return found
