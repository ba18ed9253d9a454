"""How much of a clip's evidence a model finds in few places: confidence over sliding windows.

Shapes: W windows (the conditions of the protocol `sliding`), N samples, K classes.
"""

from __future__ import annotations

import numpy as np


def window_concentration(log_probability: np.ndarray) -> np.ndarray | None:
    """How unevenly the probability of the true class lies over windows, per sample [N].

    1 - H(q) / log W with q_w = p_w / sum p_w, the normalised entropy of Shannon (1948) turned
    round: 0 = every window is equally confident, 1 = one window holds everything.

    Args:
        log_probability: log p_w of the true class, [W, N]; logarithms, because a confident model
            gives probabilities that are 0 in floating point.
    Returns:
        None for a single window, where no answer exists.
    """
    windows = len(log_probability)
    if windows < 2:
        return None
    # The largest is taken out first: exp of logits of some hundreds would vanish altogether.
    shifted = log_probability.astype(np.float64)
    shifted = shifted - shifted.max(axis=0)
    weights = np.exp(shifted)
    share = weights / weights.sum(axis=0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.clip(1 + (share * logs).sum(axis=0) / np.log(windows), 0.0, 1.0)


def true_log_probability(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log softmax of the true class, float64 [C, N], from logits [C, N, K]."""
    found = np.empty(scores.shape[:2])
    # Condition by condition: a double of all scores would be twice the largest table there is.
    for row, logits in enumerate(scores):
        double = logits.astype(np.float64)
        double -= double.max(axis=1, keepdims=True)
        own = np.take_along_axis(double, labels[:, None], axis=1)[:, 0]
        found[row] = own - np.log(np.exp(double).sum(axis=1))
    return found
