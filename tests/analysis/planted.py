"""Scores with exactly the accuracies that a test asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regatta.core.seeds import stream
from tests.analysis.build import Alter


def planted(accuracy: Sequence[float] | dict[str, Sequence[float]], *, seed: int = 3) -> Alter:
    """Scores with exactly these accuracies per condition, for all entries or by entry name.

    Every sample has one difficulty in all conditions and groups share most of theirs; the hardest
    samples are wrong, so the share of right answers is the planted one to the nearest sample.
    """

    def alter(entry: str, _seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        cells, count, classes = scores.shape
        wanted = accuracy[entry] if isinstance(accuracy, dict) else accuracy
        rng = stream(seed, "planted", entry)
        difficulty = np.repeat(rng.normal(size=-(-count // 4)), 4)[:count] + rng.normal(size=count)
        rank = difficulty.argsort().argsort()
        found = np.zeros((cells, count, classes), dtype=np.float32)
        for row, share in enumerate(wanted):
            right = rank < round(share * count)
            winner = np.where(right, labels, (labels + 1) % classes)
            found[row, np.arange(count), winner] = 3.0
        return found

    return alter
