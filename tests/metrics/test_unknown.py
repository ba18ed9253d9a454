"""Numbers of unknown classes: scikit-learn's on any scores, ties included, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from regatta.core.errors import DataError
from regatta.metrics.unknown import aupr, auroc, fpr_at_recall, novelty

scores = st.lists(st.integers(0, 12).map(lambda n: n / 12), min_size=1, max_size=40)


@given(unknown=scores, known=scores)
def test_all_three_are_scikit_learns(unknown, known):
    truth = np.r_[np.ones(len(unknown)), np.zeros(len(known))]
    both = np.r_[unknown, known]
    assert auroc(unknown, known) == pytest.approx(sk.roc_auc_score(truth, both))
    assert aupr(unknown, known) == pytest.approx(sk.average_precision_score(truth, both))
    alarms, recalls, _ = sk.roc_curve(truth, both, drop_intermediate=False)
    reached = recalls >= 0.95 - 1e-9
    assert fpr_at_recall(unknown, known) == pytest.approx(alarms[reached].min())


def test_closed_forms():
    assert (auroc([2, 3], [0, 1]), auroc([0, 1], [2, 3]), auroc([1], [1])) == (1.0, 0.0, 0.5)
    assert (aupr([2, 3], [0, 1]), fpr_at_recall([2, 3], [0, 1])) == (1.0, 0.0)
    # 19 of 20 unknown ones are enough: the lowest may be missed.
    assert fpr_at_recall([-1.0, *range(1, 20)], [0.0, 0.5]) == 0.0


def test_the_score_is_what_the_highest_probability_leaves():
    logits = np.array([[0.0, 0.0], [5.0, 0.0], [-900.0, 900.0]])
    assert novelty(logits) == pytest.approx(1 - softmax(logits, axis=1).max(axis=1))


@pytest.mark.parametrize(("unknown", "known"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_nothing_to_compare_is_an_error(unknown, known):
    with pytest.raises(DataError, match="finite numbers, at least one"):
        auroc(unknown, known)
    with pytest.raises(DataError, match="above 0 and at most 1"):
        fpr_at_recall([1.0], [0.0], recall=0.0)
