"""Concentration of confidence over windows: closed forms, an independent entropy, its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax
from scipy.stats import entropy

from regatta.analysis.compare import compare_study
from regatta.analysis.concentration import true_log_probability, window_concentration
from tests.analysis.build import build_judged_study

WINDOWS = 9


def one_sample(probability: list[float]) -> float:
    with np.errstate(divide="ignore"):
        found = window_concentration(np.log(np.array(probability))[:, None])
    assert found is not None
    return float(found[0])


def test_equal_confidence_everywhere_is_zero() -> None:
    assert one_sample([0.3] * WINDOWS) == pytest.approx(0, abs=1e-12)


def test_one_window_that_holds_everything_is_one() -> None:
    assert one_sample([0.9] + [0.0] * (WINDOWS - 1)) == 1


def test_m_of_w_equal_windows_give_one_minus_log_m_over_log_w() -> None:
    assert one_sample([0.5] * 3 + [0.0] * 6) == pytest.approx(1 - np.log(3) / np.log(9))


def test_a_single_window_has_no_concentration() -> None:
    assert window_concentration(np.zeros((1, 4))) is None


@given(arrays(float, (5, 3), elements=st.floats(1e-6, 1)), st.floats(0.01, 1))
def test_concentration_is_normalised_entropy_whatever_the_level(
    probability: np.ndarray, level: float
) -> None:
    found = window_concentration(np.log(probability))
    scaled = window_concentration(np.log(probability * level))
    assert found is not None
    assert found == pytest.approx(1 - entropy(probability, axis=0) / np.log(5), abs=1e-9)
    assert scaled == pytest.approx(found, abs=1e-9)
    assert ((found >= 0) & (found <= 1)).all()


def test_probabilities_that_underflow_still_have_a_concentration() -> None:
    found = window_concentration(np.array([[-900.0], [-900.0], [-2000.0]]))
    assert found == pytest.approx(1 - np.log(2) / np.log(3))


def test_log_probability_of_the_true_class_is_that_of_scipy() -> None:
    scores = np.random.default_rng(0).normal(0, 30, (4, 6, 5)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 0])
    expected = log_softmax(scores.astype(float), axis=2)[:, np.arange(6), labels]
    assert true_log_probability(scores, labels) == pytest.approx(expected)


def one_window_knows(_entry: str, _seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class 0 is sure in the first window and hopeless elsewhere; the others are even."""
    found = np.zeros_like(scores)
    first = np.flatnonzero(labels == 0)
    found[1:, first, 0] = -200
    return found


def test_the_report_of_a_study_holds_means_by_class_and_their_interval(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=1, samples=160, seeds=(0, 1), protocol="sliding",
        compare={"replicates": 2000}, alter=one_window_knows,
    )  # fmt: skip
    section = compare_study(folder)["contrasts"]["entries"]["timesformer"]["concentration"]
    by_class = {row["class"]: row["concentration"] for row in section["classes"]}
    assert by_class["turn-left"] == pytest.approx(1, abs=1e-5)
    assert by_class["drift-left"] == pytest.approx(0, abs=1e-5)
    mean = section["mean"]
    assert mean["estimate"] == pytest.approx(0.25, abs=1e-5)
    # 10 of 40 groups are 1 and the rest 0: the normal interval is 0.25 -+ 1.96 sqrt(.1875 / 40).
    assert mean["low"] == pytest.approx(0.25 - 0.134, abs=0.03)
    assert mean["high"] == pytest.approx(0.25 + 0.134, abs=0.03)
