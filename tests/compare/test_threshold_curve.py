"""Recall and false-positive rate at every threshold, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from visionward.compare.threshold_curve import STEPS, TABLE_THRESHOLDS, table_points, threshold_curve

ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(ROWS, st.floats(0, 1))
def test_points_are_those_of_scikit_learn(rows, in_force):
    labels, scores, always = (np.array(column) for column in zip(*rows, strict=True))
    curve = threshold_curve(labels, scores, always, in_force)
    assert [point.threshold for point in curve] == sorted({*(i / STEPS for i in range(STEPS + 1)), in_force})
    for point in curve[::7]:
        decided = (scores >= point.threshold) | always
        tn, fp, fn, tp = metrics.confusion_matrix(labels, decided, labels=[False, True]).ravel()
        assert point.recall == (pytest.approx(tp / (tp + fn)) if tp + fn else None)
        assert point.fpr == (pytest.approx(fp / (fp + tn)) if fp + tn else None)


@pytest.mark.parametrize("in_force", [0.5, 0.333, 0.0])
def test_the_table_has_the_threshold_in_force(in_force):
    curve = threshold_curve(np.array([True, False]), np.array([0.9, 0.1]), np.zeros(2, bool), in_force)
    assert [point.threshold for point in table_points(curve, in_force)] == sorted({*TABLE_THRESHOLDS, in_force})
