"""How differently the experts of one set answer: in pairs, and all together.

Measures of right and wrong answers are those of Kuncheva and Whitaker (2003, Measures of diversity
in classifier ensembles); the ambiguity is that of Krogh and Vedelsby (1995) for the log-likelihood
(Heskes 1998, Selecting weighting factors in logarithmic opinion pools).

Shapes: M experts, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from regatta.metrics.classification import Floats, log_softmax

COUNTS = ("n11", "n10", "n01", "n00")
MEASURES = ("disagreement", "q", "correlation", "double_fault")
Q_UNDEFINED = "right and wrong answers vary too little for a ratio"


def pair_diversity(first_N: np.ndarray, second_N: np.ndarray) -> dict[str, Any]:
    """COUNTS, MEASURES and the oracle of two experts from their right answers, both bool [N].

    n11 = both right, n10 = the first alone, n01 = the second alone, n00 = both wrong. q (Yule 1900)
    and correlation are None where their denominator is 0.
    """
    pairs = (first_N & second_N, first_N & ~second_N, ~first_N & second_N, ~first_N & ~second_N)
    n11, n10, n01, n00 = (int(found.sum()) for found in pairs)
    size = len(first_N)
    same, cross = n11 * n00, n01 * n10
    margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    return {
        **dict(zip(COUNTS, (n11, n10, n01, n00), strict=True)),
        "disagreement": (n10 + n01) / size,
        "q": (same - cross) / (same + cross) if same + cross else None,
        "correlation": (same - cross) / margins**0.5 if margins else None,
        "double_fault": n00 / size,
        "oracle": (n11 + n10 + n01) / size,
    }


def set_diversity(correct_MN: np.ndarray) -> dict[str, Any]:
    """Means of MEASURES over all pairs of a set that define them, and the oracle of the set: the
    share of samples that any of its experts has right."""
    pairs = [pair_diversity(a, b) for a, b in combinations(correct_MN, 2)]
    means = {name: mean_known([pair[name] for pair in pairs]) for name in MEASURES}
    oracle = float(correct_MN.any(axis=0).mean())
    return {**dict.fromkeys(COUNTS), **means, "oracle": oracle}


def ambiguity(logits_MNK: Sequence[np.ndarray], labels_N: np.ndarray) -> float:
    """Mean NLL of the experts minus the NLL of the average of their logits, in nats.

    Never negative, because the logarithm of a sum of exponentials is convex; 0 = they all give the
    same distribution.
    """
    logits = [np.asarray(each, dtype=np.float64) for each in logits_MNK]
    return _ambiguity(logits, [nll_per_sample(each, labels_N) for each in logits], labels_N)


def _ambiguity(
    logits_MNK: Sequence[Floats], nll_MN: Sequence[Floats], labels_N: np.ndarray
) -> float:
    together = nll_per_sample(sum(logits_MNK) / len(logits_MNK), labels_N)
    return float((np.mean(nll_MN, axis=0) - together).mean())


def nll_per_sample(logits_NK: Any, labels_N: np.ndarray) -> Floats:
    """-log p(label) in nats, [N]."""
    return -log_softmax(logits_NK)[np.arange(len(labels_N)), labels_N]


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None when none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def diversity_rows(
    names: Sequence[str],
    correct_MN: np.ndarray,
    logits_MNK: Sequence[np.ndarray] | None,
    labels_N: np.ndarray,
) -> list[dict[str, Any]]:
    """A row per pair of experts, then one of the whole set.

    Args:
        logits_MNK: None where experts do not know the same classes: their log-likelihoods, and with
            them the ambiguity, cannot be averaged.
    """
    logits = [np.asarray(each, dtype=np.float64) for each in logits_MNK or []]
    nll = [nll_per_sample(each, labels_N) for each in logits]

    def of(members: Sequence[int]) -> float | None:
        if not logits:
            return None
        return _ambiguity([logits[k] for k in members], [nll[k] for k in members], labels_N)

    rows = [
        {
            "kind": "pair",
            "members": [names[i], names[j]],
            **pair_diversity(correct_MN[i], correct_MN[j]),
            "ambiguity": of((i, j)),
        }
        for i, j in combinations(range(len(names)), 2)
    ]
    whole = {"kind": "set", "members": list(names), **set_diversity(correct_MN)}
    return [*rows, {**whole, "ambiguity": of(range(len(names)))}]
