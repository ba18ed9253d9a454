"""Ranks and their chances, from replicates counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regatta.analysis.bootstrap import Bootstrap, bootstrap_accuracy
from regatta.analysis.ranking import place_probabilities, rank_entries


def fixed(observed: list[list[float]], replicates: list[list[list[float]]]) -> Bootstrap:
    entries = len(observed)
    return Bootstrap(np.array(observed), np.array(replicates), None, 100, 30, (1,) * entries, 0.95)


def test_chance_of_being_first_is_the_share_of_replicates_won() -> None:
    replicates = [[[0.9], [0.8]], [[0.7], [0.8]], [[0.9], [0.1]], [[0.5], [0.5]]]
    rows = rank_entries(fixed([[0.8], [0.7]], replicates), np.ones(1), ["a", "b"])
    # Two wins of four and half of one tie.
    assert rows[0]["entry"] == "a"
    assert rows[0]["probability_first"] == pytest.approx(0.625)
    assert rows[1]["rank_probability"] == pytest.approx([0.375, 0.625])


def test_average_over_conditions_decides_by_the_mean() -> None:
    b = fixed([[0.9, 0.1], [0.6, 0.6]], [[[0.9, 0.1], [0.6, 0.6]]] * 2)
    assert rank_entries(b, np.array([1, 0]), ["a", "b"])[0]["entry"] == "a"
    on_average = rank_entries(b, np.ones(2), ["a", "b"])
    assert on_average[0]["entry"] == "b"
    assert on_average[0]["accuracy"] == pytest.approx(0.6)


def test_equal_entries_share_the_better_rank_in_study_order() -> None:
    b = fixed([[0.5], [0.5], [0.2]], [[[0.5], [0.5], [0.2]]] * 2)
    rows = rank_entries(b, np.ones(1), ["x", "y", "z"])
    assert [(r["entry"], r["rank"]) for r in rows] == [("x", 1), ("y", 1), ("z", 3)]
    assert rows[0]["probability_first"] == pytest.approx(0.5)


def test_single_group_has_ranks_without_chances() -> None:
    correct = np.array([[[True, True]], [[True, False]]])
    b = bootstrap_accuracy(
        correct, np.zeros(2), entry_of_run=[0, 1], replicates=100, confidence=0.95, seed=0
    )
    rows = rank_entries(b, np.ones(1), ["a", "b"])
    assert [r["rank"] for r in rows] == [1, 2]
    assert rows[0]["probability_first"] is None


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.integers(0, 3))
)
def test_chances_of_places_are_a_doubly_stochastic_table(values: np.ndarray) -> None:
    chances = place_probabilities(values.astype(float))
    assert chances.sum(axis=0) == pytest.approx(np.ones(values.shape[1]))
    assert chances.sum(axis=1) == pytest.approx(np.ones(values.shape[1]))
