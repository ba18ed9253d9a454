"""Reliability diagrams at the headline: accuracy against confidence, before and after scaling.

Shapes: N samples, K classes, M bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedRun
from regatta.metrics.calibration import reliability
from regatta.metrics.classification import Floats, Integers, softmax


def reliability_section(
    runs: Sequence[JudgedRun], labels: Integers, *, bins: int
) -> dict[str, list[dict[str, Any]] | None]:
    """The bins of one entry, the answers of all its seeds together; without a known temperature
    `reliability_scaled` is None."""
    scores = [run.headline_scores.astype(np.float64) for run in runs]
    temperatures = [run.temperature_N for run in runs]
    scaled = None
    if all(np.isfinite(each).all() for each in temperatures):
        scaled = [s / t[:, None] for s, t in zip(scores, temperatures, strict=True)]
    return {
        "reliability": _bins(scores, labels, bins),
        "reliability_scaled": None if scaled is None else _bins(scaled, labels, bins),
    }


def _bins(scores: Sequence[Floats], labels: Integers, bins: int) -> list[dict[str, Any]]:
    together = softmax(np.concatenate(scores))
    columns = reliability(together, np.tile(labels, len(scores)), bins=bins)
    return [
        {
            "confidence": float(confidence) if count else None,
            "accuracy": float(accuracy) if count else None,
            "n": int(count),
        }
        for confidence, accuracy, count in zip(*columns, strict=True)
    ]
