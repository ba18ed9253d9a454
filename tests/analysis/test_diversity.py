"""Diversity of experts against hand counts and laws that hold for any answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regatta.analysis.diversity import (
    ambiguity,
    diversity_rows,
    mean_known,
    nll_per_sample,
    pair_diversity,
    set_diversity,
)


def right(text: str) -> np.ndarray:
    return np.array([mark == "1" for mark in text])


def test_a_pair_is_counted_by_hand() -> None:
    """4 both right, 2 the first alone, 1 the second alone, 3 both wrong: Q = (12-2)/(12+2)."""
    found = pair_diversity(right("1111110000"), right("1111001000"))
    assert [found[key] for key in ("n11", "n10", "n01", "n00")] == [4, 2, 1, 3]
    assert found["disagreement"] == pytest.approx(0.3)
    assert found["q"] == pytest.approx(10 / 14)
    assert found["correlation"] == pytest.approx(10 / math.sqrt(6 * 4 * 5 * 5))
    assert found["double_fault"] == pytest.approx(0.3)
    assert found["oracle"] == pytest.approx(0.7)


def test_q_and_correlation_are_undefined_where_nothing_can_be_divided() -> None:
    always = pair_diversity(right("1111"), right("1111"))
    assert always["q"] is None
    assert always["correlation"] is None
    # One expert makes errors, but what it gets wrong says nothing about one that is always right.
    one_sided = pair_diversity(right("1100"), right("1111"))
    assert one_sided["q"] is None
    assert one_sided["correlation"] is None
    assert one_sided["disagreement"] == 0.5
    assert one_sided["oracle"] == 1.0
    assert pair_diversity(right("10"), right("01"))["q"] == -1.0


def test_a_set_has_the_means_of_its_pairs_and_its_own_oracle() -> None:
    """Disagreements 2/4, 2/4, 2/4; any right in 3 of 4; both wrong in 1, 2 and 1 of 4."""
    correct = np.stack([right("1100"), right("1000") | right("0010"), right("0110")])
    found = set_diversity(correct)
    assert found["disagreement"] == pytest.approx(0.5)
    assert found["double_fault"] == pytest.approx(0.25)
    assert found["oracle"] == 0.75
    assert found["n11"] is None


def test_a_pair_without_q_is_left_out_of_the_mean_not_counted_as_zero() -> None:
    correct = np.stack([right("1111"), right("1100"), right("1100")])
    assert set_diversity(correct)["q"] == 1.0
    assert mean_known([None, None]) is None


@settings(max_examples=60)
@given(arrays(bool, st.tuples(st.just(2), st.integers(2, 40))))
def test_correlation_is_pearson_s_of_right_answers(correct_MN: np.ndarray) -> None:
    found = pair_diversity(*correct_MN)
    if correct_MN.std(axis=1).min() == 0:
        assert found["correlation"] is None
    else:
        expected = np.corrcoef(correct_MN.astype(float))[0, 1]
        assert found["correlation"] == pytest.approx(expected, abs=1e-12)


def test_ambiguity_of_two_experts_by_hand() -> None:
    """Logits (2, 0) and (0, 0) for label 0: log(1 + e^-2) and log 2; their average (1, 0)."""
    labels = np.array([0])
    expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2 - math.log1p(math.exp(-1))
    found = ambiguity([np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]])], labels)
    assert found == pytest.approx(expected, abs=1e-12)


LOGITS = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.just(3)),
    elements=st.floats(-30, 30),
)


@settings(max_examples=80)
@given(LOGITS, st.integers(0, 2))
def test_ambiguity_is_never_negative(logits_MNK: np.ndarray, label: int) -> None:
    labels = np.full(logits_MNK.shape[1], label)
    assert ambiguity(list(logits_MNK), labels) >= -1e-9


@settings(max_examples=40)
@given(LOGITS, st.floats(-20, 20))
def test_ambiguity_ignores_what_softmax_ignores(logits_MNK: np.ndarray, shift: float) -> None:
    """A number added to all logits of one expert changes no distribution: nor the ambiguity."""
    labels = np.zeros(logits_MNK.shape[1], dtype=int)
    moved = [logits_MNK[0] + shift, *logits_MNK[1:]]
    assert ambiguity(moved, labels) == pytest.approx(ambiguity(list(logits_MNK), labels), abs=1e-9)


def test_equal_experts_have_no_ambiguity_and_huge_logits_stay_finite() -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]])
    assert ambiguity([logits, logits], np.array([0, 0])) == 0
    assert nll_per_sample(logits, np.array([1, 1])).tolist() == [1e4, 0.0]


def test_rows_are_all_pairs_then_the_set() -> None:
    labels = np.array([0, 1])
    logits = [np.eye(2), np.eye(2)[::-1], np.eye(2)]
    correct = np.stack([each.argmax(axis=1) == labels for each in logits])
    rows = diversity_rows(["a", "b", "c"], correct, logits, labels)
    assert [row["members"] for row in rows] == [["a", "b"], ["a", "c"], ["b", "c"], ["a", "b", "c"]]
    assert [row["kind"] for row in rows] == ["pair", "pair", "pair", "set"]
    # Of (1, 0) and (0, 1) the average is (1/2, 1/2), whose NLL is log 2.
    each = (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2
    assert rows[0]["ambiguity"] == pytest.approx(each - math.log(2))
    assert rows[1]["ambiguity"] == 0
    without = diversity_rows(["a", "b"], correct[:2], None, labels)
    assert [row["ambiguity"] for row in without] == [None, None]
