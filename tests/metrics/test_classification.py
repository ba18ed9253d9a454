"""Classification metrics against scikit-learn, closed forms and property laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from regatta.core.errors import DataError
from regatta.metrics.classification import (
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    negative_log_likelihood,
    per_class_accuracy,
    predict_classes,
    softmax,
    top_k_accuracy,
)

CLASSES = 5


def draw(seed: int, samples: int = 200, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(samples, classes)) + 1.5 * np.eye(classes)[labels]
    return logits, labels


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_accuracy_equals_scikit_learn(k: int) -> None:
    logits, labels = draw(1)
    expected = top_k_accuracy_score(labels, logits, k=k, labels=range(CLASSES))
    assert top_k_accuracy(logits, labels, k=k) == pytest.approx(expected, abs=1e-12)


def test_top_k_is_one_when_k_reaches_the_class_count() -> None:
    logits, labels = draw(2)
    assert top_k_accuracy(logits, labels, k=CLASSES) == 1.0
    assert top_k_accuracy(logits, labels, k=CLASSES + 3) == 1.0


def test_a_tie_goes_to_the_lower_class_number() -> None:
    level = np.zeros((3, 3))
    assert predict_classes(level).tolist() == [0, 0, 0]
    assert top_k_accuracy(level, [0, 1, 2], k=1) == pytest.approx(1 / 3)
    assert top_k_accuracy(level, [0, 1, 2], k=2) == pytest.approx(2 / 3)


@given(seed=st.integers(0, 10_000))
def test_top_k_grows_with_k_and_top_1_is_the_share_of_right_predictions(seed: int) -> None:
    logits, labels = draw(seed, samples=20)
    accuracies = [top_k_accuracy(logits, labels, k=k) for k in range(1, CLASSES + 1)]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == np.mean(predict_classes(logits) == labels)


@pytest.mark.parametrize("seed", range(3))
def test_confusion_f1_and_balanced_accuracy_equal_scikit_learn(seed: int) -> None:
    logits, labels = draw(seed, samples=60)
    predictions = predict_classes(logits)
    counts = confusion_matrix(predictions, labels, num_classes=CLASSES)
    assert np.array_equal(counts, sklearn_confusion(labels, predictions, labels=range(CLASSES)))
    assert macro_f1(predictions, labels, num_classes=CLASSES) == pytest.approx(
        f1_score(labels, predictions, average="macro"), abs=1e-12
    )
    assert balanced_accuracy(predictions, labels, num_classes=CLASSES) == pytest.approx(
        balanced_accuracy_score(labels, predictions), abs=1e-12
    )


def test_confusion_rows_are_the_truth() -> None:
    counts = confusion_matrix([1, 1, 0], [0, 0, 0], num_classes=2)
    assert counts.tolist() == [[1, 2], [0, 0]]


def test_a_class_without_samples_has_no_accuracy_and_does_not_count() -> None:
    accuracies = per_class_accuracy([0, 1, 1], [0, 0, 1], num_classes=3)
    assert accuracies[:2].tolist() == [0.5, 1.0]
    assert np.isnan(accuracies[2])
    assert balanced_accuracy([0, 1, 1], [0, 0, 1], num_classes=3) == 0.75


def test_f1_counts_a_class_that_is_only_predicted_as_zero() -> None:
    # Class 0: TP 1, FN 1 -> 2/3. Class 1: one false positive -> 0. Class 2: unseen, left out.
    assert macro_f1([0, 1], [0, 0], num_classes=3) == pytest.approx(1 / 3)


def test_negative_log_likelihood_equals_scikit_learn() -> None:
    logits, labels = draw(4)
    expected = log_loss(labels, softmax(logits), labels=range(CLASSES))
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_negative_log_likelihood_of_level_scores_is_log_k() -> None:
    assert negative_log_likelihood(np.zeros((4, 8)), [0, 1, 2, 7]) == pytest.approx(np.log(8))


def test_negative_log_likelihood_stands_logits_that_overflow_exp() -> None:
    assert negative_log_likelihood([[1e4, 0.0]], [1]) == pytest.approx(1e4)
    assert negative_log_likelihood([[1e4, 0.0]], [0]) == pytest.approx(0.0, abs=1e-12)


@given(seed=st.integers(0, 10_000), shift=st.floats(-1e3, 1e3))
def test_probabilities_sum_to_one_and_ignore_a_shift(seed: int, shift: float) -> None:
    logits, _ = draw(seed, samples=6)
    assert np.allclose(softmax(logits).sum(axis=1), 1.0, atol=1e-12)
    assert np.allclose(softmax(logits + shift), softmax(logits), atol=1e-9)


def test_one_class_is_always_right() -> None:
    assert top_k_accuracy([[3.0], [-1.0]], [0, 0]) == 1.0
    assert negative_log_likelihood([[3.0], [-1.0]], [0, 0]) == pytest.approx(0.0, abs=1e-12)
    assert confusion_matrix([0, 0], [0, 0], num_classes=1).tolist() == [[2]]


@pytest.mark.parametrize(
    ("scores", "labels", "told"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "not empty"),
        (np.zeros((2, 0)), [0, 0], "not empty"),
        (np.zeros(3), [0], r"\[samples, classes\]"),
        (np.zeros((2, 3)), [0], r"labels must be \[2\]"),
        (np.zeros((1, 3)), [3], r"0 \.\. 2"),
        (np.zeros((1, 3)), [-1], r"0 \.\. 2"),
        (np.zeros((1, 3)), [0.5], "whole numbers"),
        ([[0.0, np.nan]], [0], "NaN or infinite"),
        ([[0.0, np.inf]], [0], "NaN or infinite"),
    ],
)
def test_unusable_scores_are_refused_by_name(scores, labels, told: str) -> None:
    with pytest.raises(DataError, match=told):
        top_k_accuracy(scores, labels)
    with pytest.raises(DataError, match=told):
        negative_log_likelihood(scores, labels)


def test_the_first_row_with_a_nan_score_is_named() -> None:
    with pytest.raises(DataError, match="1 of 3") as caught:
        predict_classes([[0.0, 1.0], [np.nan, 1.0], [2.0, 1.0]])
    assert caught.value.where == "row 1 first"


def test_confusion_refuses_lists_of_unequal_length_and_foreign_classes() -> None:
    with pytest.raises(DataError, match=r"\[3\]"):
        confusion_matrix([0, 1, 1], [0, 1], num_classes=2)
    with pytest.raises(DataError, match=r"0 \.\. 1"):
        confusion_matrix([0, 2], [0, 1], num_classes=2)
    with pytest.raises(DataError, match="not empty"):
        confusion_matrix([], [], num_classes=2)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(DataError, match="k must be"):
        top_k_accuracy([[0.0, 1.0]], [1], k=0)
