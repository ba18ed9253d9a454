"""How well a score tells samples of classes that a model never saw from those that it knows.

Higher scores mean "unknown"; unknown samples are the positives. Shapes: U unknown samples, V known
ones, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from regatta.core.errors import DataError
from regatta.metrics.classification import Floats, softmax


def novelty(logits_NK: ArrayLike) -> Floats:
    """1 - the highest class probability, [N] (Hendrycks and Gimpel 2017)."""
    return 1 - softmax(logits_NK).max(axis=1)


def auroc(unknown_U: ArrayLike, known_V: ArrayLike) -> float:
    """Chance that an unknown sample scores above a known one, ties counted half (Hanley and McNeil
    1982): the area under the ROC curve."""
    unknown, known = _both(unknown_U, known_V)
    below = np.searchsorted(known, unknown, side="left")
    not_above = np.searchsorted(known, unknown, side="right")
    return float((below + not_above).mean() / (2 * len(known)))


def aupr(unknown_U: ArrayLike, known_V: ArrayLike) -> float:
    """Average precision: sum over thresholds of (recall - recall before) * precision, equal scores
    taken together."""
    unknown, known = _both(unknown_U, known_V)
    thresholds = np.unique(np.concatenate([unknown, known]))[::-1]
    hits = len(unknown) - np.searchsorted(unknown, thresholds, side="left")
    alarms = len(known) - np.searchsorted(known, thresholds, side="left")
    gained = np.diff(hits, prepend=0) / len(unknown)
    return float((gained * hits / (hits + alarms)).sum())


def fpr_at_recall(unknown_U: ArrayLike, known_V: ArrayLike, *, recall: float = 0.95) -> float:
    """Share of known samples called unknown at the highest threshold that finds `recall` of the
    unknown ones."""
    unknown, known = _both(unknown_U, known_V)
    if not 0 < recall <= 1:
        raise DataError(f"recall must be above 0 and at most 1, not {recall}")
    # Rounded first: 0.95 * 20 is a little above 19 in binary.
    needed = int(np.ceil(round(recall * len(unknown), 9)))
    return float((known >= unknown[len(unknown) - needed]).mean())


def _both(unknown_U: ArrayLike, known_V: ArrayLike) -> tuple[Floats, Floats]:
    """Both sorted; DataError when one is empty or a score is not finite."""
    unknown, known = (np.sort(np.asarray(v, dtype=np.float64)) for v in (unknown_U, known_V))
    for name, values in (("unknown", unknown), ("known", known)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise DataError(f"scores of {name} samples must be finite numbers, at least one")
    return unknown, known
