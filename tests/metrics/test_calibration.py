"""Calibration measures against scikit-learn, hand-counted bins and property laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from regatta.core.errors import DataError
from regatta.metrics.calibration import brier, ece, reliability
from regatta.metrics.classification import softmax


def draw(seed: int, samples: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    return softmax(rng.normal(size=(samples, classes)) + 2 * np.eye(classes)[labels]), labels


def test_brier_equals_scikit_learn() -> None:
    probabilities, labels = draw(0)
    expected = brier_score_loss(labels, probabilities, labels=range(4))
    assert brier(probabilities, labels) == pytest.approx(expected, rel=1e-9)


def test_brier_of_certainty_and_of_ignorance() -> None:
    certain = np.eye(4)
    assert brier(certain, [0, 1, 2, 3]) == 0.0
    assert brier(certain, [1, 2, 3, 0]) == 2.0
    # Level probabilities: (1 - 1/K)^2 + (K - 1) / K^2 = 1 - 1/K.
    assert brier(np.full((5, 4), 0.25), [0, 1, 2, 3, 0]) == pytest.approx(0.75)


def test_ece_of_one_confidence_is_its_gap_to_accuracy() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    labels = [0] * 5 + [1] * 5
    assert ece(probabilities, labels) == pytest.approx(0.3)


def test_reliability_equals_scikit_learn_bin_by_bin() -> None:
    probabilities, labels = draw(3)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    ours = reliability(probabilities, labels)
    filled = ours[2] > 0
    assert ours[0][filled] == pytest.approx(confidence)
    assert ours[1][filled] == pytest.approx(accuracy)
    assert ours[2].sum() == len(labels)
    assert np.isnan(ours[0][~filled]).all()


def test_ece_is_the_weighted_gap_of_the_reliability_bins() -> None:
    probabilities, labels = draw(4)
    confidence, accuracy, samples = reliability(probabilities, labels, bins=7)
    gaps = np.nansum(samples * np.abs(accuracy - confidence)) / len(labels)
    assert ece(probabilities, labels, bins=7) == pytest.approx(gaps)


def test_ece_weighs_bins_by_their_samples() -> None:
    # Confidence 0.9: 3 of 4 right, gap 0.15. Confidence 0.6: 0 of 1 right, gap 0.6.
    probabilities = [[0.9, 0.1]] * 4 + [[0.6, 0.4]]
    labels = [0, 0, 0, 1, 1]
    assert ece(probabilities, labels) == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)


def test_errors_in_one_bin_cancel_and_finer_bins_part_them() -> None:
    # 0.71 and always right, 0.79 and right in 1 of 2: in one bin of ten, 3 of 4 at mean 0.75.
    probabilities = [[0.71, 0.29]] * 2 + [[0.79, 0.21]] * 2
    labels = [0, 0, 0, 1]
    assert ece(probabilities, labels, bins=10) == pytest.approx(0.0, abs=1e-12)
    assert ece(probabilities, labels, bins=20) == pytest.approx(0.29)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # Bins (0.5, 0.75] and (0.75, 1]: 0.75 and 0.51 share the lower one and cancel.
    probabilities = [[0.75, 0.25], [0.51, 0.49]]
    assert ece(probabilities, [0, 1], bins=4) == pytest.approx(abs(0.25 - 0.51) / 2)


def test_a_calibrated_model_has_small_ece_and_an_overconfident_one_has_not() -> None:
    rng = np.random.default_rng(5)
    probabilities = softmax(rng.normal(size=(40_000, 3)))
    labels = (rng.random((40_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert ece(probabilities, labels) < 0.01
    sharpened = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    assert ece(sharpened, labels) > 0.1


@given(seed=st.integers(0, 10_000), bins=st.integers(1, 40))
def test_measures_stay_in_range_and_ece_is_at_least_the_mean_gap(seed: int, bins: int) -> None:
    probabilities, labels = draw(seed, samples=30)
    gap = abs(np.mean(probabilities.argmax(axis=1) == labels) - probabilities.max(axis=1).mean())
    value = ece(probabilities, labels, bins=bins)
    # The triangle inequality: whatever the bins, their gaps cannot sum to less than the whole's.
    assert gap - 1e-12 <= value <= 1
    assert 0 <= brier(probabilities, labels) <= 2


def test_half_precision_probabilities_are_taken_and_logits_are_refused() -> None:
    probabilities, labels = draw(1)
    halved = probabilities.astype(np.float16)
    assert ece(halved, labels) == pytest.approx(ece(probabilities, labels), abs=0.02)
    with pytest.raises(DataError, match="probabilities"):
        ece([[2.0, -1.0]], [0])
    with pytest.raises(DataError, match="probabilities"):
        brier([[0.5, 0.2]], [0])


def test_empty_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="not empty"):
        brier(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(DataError, match="NaN"):
        ece([[np.nan, 1.0]], [0])
    with pytest.raises(DataError, match="bin"):
        ece([[0.5, 0.5]], [0], bins=0)
