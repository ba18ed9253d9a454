"""One number that makes a model's probabilities mean what they say."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from regatta.metrics.classification import check_scores

SMALLEST, LARGEST = 0.01, 100.0
"""A model that is always right would ask for 0, one that knows nothing for infinity."""


def fit_temperature(logits_NK: ArrayLike, labels_N: ArrayLike) -> float:
    """The T > 0 that minimises the mean of -log softmax(logits / T)[label], in float64.

    Found between 0.01 and 100 to six digits; the loss has one minimum in T, as it is convex in 1/T.

    Source: Guo et al. 2017, On calibration of modern neural networks, section 4.2.

    Raises:
        DataError: see `metrics.classification.check_scores`.
    """
    logits, labels = check_scores(logits_NK, labels_N)
    gaps_NK = logits - logits.max(axis=1, keepdims=True)
    own_mean = gaps_NK[np.arange(len(labels)), labels].mean()

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.log(np.exp(gaps_NK * scale).sum(axis=1)).mean() - own_mean * scale)

    bounds = (math.log(SMALLEST), math.log(LARGEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return math.exp(found.x)
