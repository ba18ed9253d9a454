"""Concentration of confidence over sliding windows, as numbers with intervals.

Shapes: N samples, U runs, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import bootstrap_accuracy, tally_by_group
from regatta.analysis.judged import JudgedStudy

WHOLE = 1 << 20
"""Concentrations are rounded to this part of 1: sums of whole numbers do not depend on order."""


def concentration_by_entry(judged: JudgedStudy) -> dict[str, dict[str, Any]]:
    """Per entry the mean concentration over samples with a clustered interval, and per class.

    Each run's concentration is taken sample by sample; seeds are an outer level of the interval.
    Empty when the runs carry no concentration (another protocol, or one window).
    """
    runs = [run for entry in judged.entries for run in judged.runs_of(entry)]
    values = [run.concentration for run in runs if run.concentration is not None]
    if len(values) < len(runs):
        return {}
    settings = judged.study.compare
    whole_UN = np.round(np.stack(values) * WHOLE).astype(np.int64)
    bootstrap = bootstrap_accuracy(
        whole_UN[:, None, :],
        judged.groups,
        entry_of_run=[judged.entries.index(run.entry) for run in runs],
        replicates=settings.replicates,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    found = {}
    for position, entry in enumerate(judged.entries):
        mean = bootstrap.interval(
            lambda a, e=position: a[..., e, 0], entries=[position], collapse="point"
        )
        mine = [row for row, run in zip(whole_UN, runs, strict=True) if run.entry == entry]
        found[entry] = {
            "mean": mean.scaled(1 / WHOLE).as_dict(),
            "classes": _by_class(np.mean(mine, axis=0) / WHOLE, judged.labels, judged.classes),
        }
    return found


def _by_class(values: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[dict]:
    """Mean of `values` [N] over the samples of each class that has any."""
    sums, sizes = tally_by_group(np.round(values * WHOLE).astype(np.int64)[None, None], labels)
    present = np.flatnonzero(sizes)
    means = sums[0, :, 0] / WHOLE / sizes[present]
    return [
        {"class": classes[int(k)], "samples": int(sizes[k]), "concentration": float(mean)}
        for k, mean in zip(present, means, strict=True)
    ]
