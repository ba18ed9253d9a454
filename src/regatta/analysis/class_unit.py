"""Counts of right answers per class as made-up samples, so that what works on counts works on them.

The first k of the n samples of a class are right. Nothing may read from it *which* samples were
right: pairing of conditions or entries by sample means nothing here, sums over classes do.

Shapes: C conditions, N samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regatta.records.class_counts import ClassCounts


@dataclass(frozen=True)
class PseudoSamples:
    """ids str [N], "<class>/<number>"; labels int [N]; correct bool [C, N]."""

    ids: np.ndarray
    labels: np.ndarray
    correct: np.ndarray


def pseudo_samples(counts: ClassCounts) -> PseudoSamples:
    """The samples of all classes, class after class."""
    labels = np.repeat(np.arange(len(counts.classes)), counts.counts)
    number = np.concatenate([np.arange(n) for n in counts.counts.tolist()])
    ids = [f"{counts.classes[k]}/{i + 1}" for k, i in zip(labels, number, strict=True)]
    return PseudoSamples(np.array(ids, dtype=str), labels, number < counts.right[:, labels])
