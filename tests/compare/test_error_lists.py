"""Lists of misses, false alarms and changes without a label."""

import dataclasses

from visionward.compare.datasets import Dataset
from visionward.compare.error_lists import compared_answers, error_lists
from visionward.compare.figures import set_figures


def test_misses_and_false_alarms_are_listed_once_each(simulated):
    dataset, results = simulated
    figures = set_figures(dataset, results)
    lists = error_lists(compared_answers(figures, dataset, results))
    for listed, count in ((lists.misses, "missed"), (lists.false_alarms, "false_alarms")):
        assert len({one.sample.id for one in listed}) == len(listed)
        for place, model in enumerate(figures.models):
            wrong = sum(one.is_wrong(one.answers[place][1]) for one in listed)
            assert wrong == getattr(model.confusion, count)
        # What a candidate gets newly wrong comes first.
        order = [(not one.newly_wrong, not one.changed) for one in listed]
        assert order == sorted(order)
    assert lists.changes == ()
    unlabelled = Dataset("u", tuple(dataclasses.replace(s, unsafe=None, categories=None) for s in dataset.samples))
    figures = set_figures(unlabelled, results)
    lists = error_lists(compared_answers(figures, unlabelled, results))
    assert (lists.misses, lists.false_alarms) == ((), ())
    assert len(lists.changes) == sum(
        len({result.judged[digest].unsafe for result in results}) > 1 for digest in dataset.digests
    )
