"""One score row per condition out of the rows of its views.

Shapes: V views of a condition, K classes.
"""

from __future__ import annotations

import numpy as np

from regatta.evaluation.protocols import Average


def average_views(logits_VK: np.ndarray, average: Average) -> np.ndarray:
    """The scores that are stored for one condition.

    One view passes untouched. Of several, "probability" gives log((1/V) sum_v softmax(logits_v)):
    its softmax is the mean of the views' probabilities; "logit" gives the mean of the logits.
    Computed in float64, whose exponents never overflow here as each row's maximum is taken out.

    Args:
        logits_VK: float32 [V, K], V >= 1.

    Returns:
        float32 [K].
    """
    if len(logits_VK) == 1:
        return logits_VK[0]
    wide = logits_VK.astype(np.float64)
    if average == "logit":
        return wide.mean(axis=0).astype(np.float32)
    log_probabilities = wide - _log_sum_exp(wide, axis=1)
    mean = _log_sum_exp(log_probabilities, axis=0)[0] - np.log(len(wide))
    return mean.astype(np.float32)


def _log_sum_exp(values: np.ndarray, *, axis: int) -> np.ndarray:
    peak = values.max(axis=axis, keepdims=True)
    return peak + np.log(np.exp(values - peak).sum(axis=axis, keepdims=True))
