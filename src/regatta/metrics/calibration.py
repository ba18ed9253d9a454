"""Whether a model's probabilities mean what they say.

Shapes: N samples, K classes. Probabilities are [N, K] and sum to 1 per sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from regatta.core.errors import DataError
from regatta.metrics.classification import Floats, Integers, check_scores

SUM_TOLERANCE = 1e-3
"""How far probabilities stored in half precision may sum from 1."""


def brier(probabilities_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """Mean over samples of the squared distance from the one-hot label, in [0, 2] (Brier 1950)."""
    probabilities, labels = check_probabilities(probabilities_NK, labels_N)
    gaps = probabilities.copy()
    gaps[np.arange(len(labels)), labels] -= 1.0
    return float((gaps**2).sum(axis=1).mean())


def ece(probabilities_NK: ArrayLike, labels_N: ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] (Naeini et al. 2015; Guo et al. 2017, equation 3).

    The mean gap between confidence (the highest probability) and accuracy over equal-width bins
    (0, 1/bins], (1/bins, 2/bins] ..., weighted by the samples in each.

    Raises:
        DataError: as `check_probabilities`, or fewer than one bin.
    """
    confidence, right, counts = _bin_sums(probabilities_NK, labels_N, bins)
    # Sum of (right - confidence) per bin is the bin's weight times its gap, times N.
    return float(np.abs(right - confidence).sum() / counts.sum())


def reliability(
    probabilities_NK: ArrayLike, labels_N: ArrayLike, *, bins: int = 15
) -> tuple[Floats, Floats, Integers]:
    """Mean confidence, accuracy and samples of each of the bins of `ece`, all [bins].

    NaN where a bin has no sample (DeGroot and Fienberg 1983).

    Raises:
        DataError: as `ece`.
    """
    confidence, right, counts = _bin_sums(probabilities_NK, labels_N, bins)
    weights = np.where(counts > 0, counts, np.nan)
    return confidence / weights, right / weights, counts


def _bin_sums(
    probabilities_NK: ArrayLike, labels_N: ArrayLike, bins: int
) -> tuple[Floats, Floats, Integers]:
    """Per bin the sum of confidences, the right answers and the samples."""
    probabilities, labels = check_probabilities(probabilities_NK, labels_N)
    if bins < 1:
        raise DataError(f"there must be at least one bin, not {bins}")
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    confidences, hits = (
        np.bincount(place, weights=values, minlength=bins).astype(np.float64)
        for values in (confidence, right)
    )
    return confidences, hits, np.bincount(place, minlength=bins)


def check_probabilities(
    probabilities_NK: ArrayLike, labels_N: ArrayLike
) -> tuple[Floats, Integers]:
    """Both as arrays. Raises DataError as `check_scores`, or when rows are no distributions."""
    probabilities, labels = check_scores(probabilities_NK, labels_N)
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise DataError(
            "rows must be probabilities: none below 0, sum 1",
            hint="turn logits into probabilities with metrics.classification.softmax",
        )
    return probabilities, labels
