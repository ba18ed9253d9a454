"""Who is first, and how sure: ranks over the same replicates that give the intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap


def rank_entries(
    bootstrap: Bootstrap, weights: np.ndarray, names: list[str]
) -> list[dict[str, Any]]:
    """Entries from best to worst by mean accuracy over the conditions with weight.

    Args:
        weights: [C] over conditions; only their proportions count.
    Returns:
        Per entry: rank (equal accuracies share the better one), accuracy, probability_first (ties
        split evenly) and rank_probability, the chance of each place; None with a single group.
    """
    share = weights / weights.sum()
    # Sums of equal fractions may differ in the last bit; equal accuracies must tie.
    observed = np.round(bootstrap.observed @ share, 12)
    chances = None
    if len(bootstrap.replicates):
        chances = place_probabilities(np.round(bootstrap.replicates @ share, 12))
    rows = []
    for entry in np.argsort(-observed, kind="stable"):
        places = None if chances is None else chances[entry]
        rows.append(
            {
                "entry": names[entry],
                "rank": int((observed > observed[entry]).sum()) + 1,
                "accuracy": float(bootstrap.observed[entry] @ share),
                "probability_first": None if places is None else float(places[0]),
                "rank_probability": None if places is None else places.tolist(),
            }
        )
    return rows


def place_probabilities(values: np.ndarray) -> np.ndarray:
    """Chance of each place, [E, E] (entry, place), over replicates `values` [R, E].

    Entries that tie share the places they take evenly, so rows and columns sum to 1.
    """
    entries = values.shape[1]
    better = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    chances = np.zeros((entries, entries))
    for place in range(entries):
        takes = (better <= place) & (place < better + equal)
        chances[:, place] = (takes / equal).mean(axis=0)
    return chances
