"""How often, and how surely, scores are right.

Shapes: N samples, K classes. The model's output comes first, the labels second. Scores are logits
or probabilities [N, K]; labels and predictions are class numbers [N].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regatta.core.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def check_scores(scores_NK: ArrayLike, labels_N: ArrayLike) -> tuple[Floats, Integers]:
    """Both as arrays, float64 [N, K] and int64 [N].

    Raises:
        DataError: as `check_finite` and `check_labels`.
    """
    scores = check_finite(scores_NK)
    return scores, check_labels(labels_N, num_classes=scores.shape[1], count=len(scores))


def check_finite(scores_NK: ArrayLike) -> Floats:
    """Scores as float64 [N, K]. Raises DataError when empty, of another shape, NaN or infinite."""
    scores = np.asarray(scores_NK, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise DataError(f"scores must be [samples, classes] and not empty, not {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise DataError(
            f"{bad.size} of {len(scores)} samples have NaN or infinite scores",
            where=f"row {bad[0]} first",
            hint="the model diverged: train with a smaller learning rate or in fp32",
        )
    return scores


def check_labels(labels_N: ArrayLike, *, num_classes: int, count: int) -> Integers:
    """Class numbers as int64 [count]. Raises DataError for another shape, type or range."""
    labels = np.asarray(labels_N)
    if labels.shape != (count,) or count == 0:
        raise DataError(f"labels must be [{count}] and not empty, not {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be whole numbers, not {labels.dtype}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"labels must lie in 0 .. {num_classes - 1}, found {labels.min()} .. {labels.max()}"
        )
    return labels.astype(np.int64)


def predict_classes(scores_NK: ArrayLike) -> Integers:
    """The class of the highest score, [N]; the lower number wins a tie."""
    return check_finite(scores_NK).argmax(axis=1).astype(np.int64)


def top_k_accuracy(scores_NK: ArrayLike, labels_N: ArrayLike, *, k: int = 1) -> float:
    """Share of samples whose label is among the k highest scores, in [0, 1].

    The lower class number wins a tie, as in `predict_classes`; 1.0 when k is at least K.
    """
    scores, labels = check_scores(scores_NK, labels_N)
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    own = scores[np.arange(len(labels)), labels][:, None]
    wins_tie = (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    rank = ((scores > own) | wins_tie).sum(axis=1)
    return float((rank < k).mean())


def confusion_matrix(
    predictions_N: ArrayLike, labels_N: ArrayLike, *, num_classes: int
) -> Integers:
    """Counts [K, K]: rows are the true class, columns the predicted one."""
    predictions = np.asarray(predictions_N)
    labels = check_labels(labels_N, num_classes=num_classes, count=predictions.size)
    predictions = check_labels(predictions, num_classes=num_classes, count=len(labels))
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def per_class_accuracy(
    predictions_N: ArrayLike, labels_N: ArrayLike, *, num_classes: int
) -> Floats:
    """Share of each class's samples that are right, [K]; NaN for a class without samples."""
    return recalls(confusion_matrix(predictions_N, labels_N, num_classes=num_classes))


def recalls(counts_KK: Integers) -> Floats:
    """Diagonal over row sum of a confusion matrix, [K]; NaN for a class without samples."""
    samples = counts_KK.sum(axis=1)
    return np.divide(
        counts_KK.diagonal(), samples, out=np.full(len(counts_KK), np.nan), where=samples > 0
    )


def balanced_accuracy(predictions_N: ArrayLike, labels_N: ArrayLike, *, num_classes: int) -> float:
    """Mean accuracy over the classes that have samples: each class counts the same."""
    return float(np.nanmean(per_class_accuracy(predictions_N, labels_N, num_classes=num_classes)))


def macro_f1(predictions_N: ArrayLike, labels_N: ArrayLike, *, num_classes: int) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Classes that are neither in the labels nor in the predictions have no F1 and are left out.
    """
    return mean_f1(confusion_matrix(predictions_N, labels_N, num_classes=num_classes))


def mean_f1(counts_KK: Integers) -> float:
    """`macro_f1` of a confusion matrix."""
    denominator = counts_KK.sum(axis=0) + counts_KK.sum(axis=1)
    seen = denominator > 0
    return float((2 * counts_KK.diagonal()[seen] / denominator[seen]).mean())


def log_softmax(logits_NK: ArrayLike) -> Floats:
    """Natural log of the class probabilities, [N, K]; safe for logits of any size."""
    logits = check_finite(logits_NK)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits_NK: ArrayLike) -> Floats:
    """Class probabilities [N, K]; safe for logits of any size."""
    return np.exp(log_softmax(logits_NK))


def negative_log_likelihood(logits_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """Mean of -log p(label) in nats, from logits: the cross-entropy that training minimises."""
    logits, labels = check_scores(logits_NK, labels_N)
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())
