"""What a classifier gets right, class by class, and what its scores are worth, at the headline.

Several seeds: the confusion matrix, and with it precision, recall and F1 of a class, counts the
answers of all seeds together (support counts each sample once); every other number is the mean over
seeds of what one seed reaches. Calibration is given before and after dividing the scores by the
run's temperature, which training fitted to its validation split.

Shapes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from regatta.analysis.budget import mean_of
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.reliability import reliability_section
from regatta.metrics.calibration import brier, ece
from regatta.metrics.classification import (
    Floats,
    Integers,
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    negative_log_likelihood,
    recalls,
    softmax,
)

ECE_BINS = 15
CALIBRATION: dict[str, Callable[[Floats, Integers], float]] = {
    "nll": negative_log_likelihood,
    "brier": lambda scores, labels: brier(softmax(scores), labels),
    "ece": lambda scores, labels: ece(softmax(scores), labels, bins=ECE_BINS),
}
"""Name -> function of logits [N, K] and labels [N]."""


def classification_section(judged: JudgedStudy) -> dict[str, Any]:
    """Section `classification` of comparison.json; a number that is not defined is None. Without
    entries where only accuracies of classes are known."""
    if judged.unit == "class":
        return {"labels": judged.classes, "ece_bins": ECE_BINS, "entries": {}, "runs": {}}
    runs = {run.run_id: run_scores(run, judged.labels) for run in judged.runs}
    entries = {}
    for entry in judged.entries:
        mine = judged.runs_of(entry)
        entries[entry] = _entry(mine, [runs[run.run_id] for run in mine], judged)
    return {"labels": judged.classes, "ece_bins": ECE_BINS, "entries": entries, "runs": runs}


def run_scores(run: JudgedRun, labels: Integers) -> dict[str, float | None]:
    """Everything of one entry and seed that is a single number."""
    scores = run.headline_scores.astype(np.float64)
    predicted, classes = scores.argmax(axis=1), scores.shape[1]
    found: dict[str, float | None] = {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": macro_f1(predicted, labels, num_classes=classes),
        "balanced_accuracy": balanced_accuracy(predicted, labels, num_classes=classes),
        **{name: measure(scores, labels) for name, measure in CALIBRATION.items()},
    }
    known = bool(np.isfinite(run.temperature_N).all())
    scaled = scores / run.temperature_N[:, None] if known else scores
    for name, measure in CALIBRATION.items():
        found[f"{name}_scaled"] = measure(scaled, labels) if known else None
    found["temperature"] = float(run.temperature_N.mean()) if known else None
    return found


def _entry(
    runs: Sequence[JudgedRun], scores: Sequence[dict[str, float | None]], judged: JudgedStudy
) -> dict[str, Any]:
    classes = len(judged.classes)
    counts = sum(
        confusion_matrix(run.headline_scores.argmax(axis=1), judged.labels, num_classes=classes)
        for run in runs
    )
    counts = np.asarray(counts)
    support = np.bincount(judged.labels, minlength=classes)
    return {
        "confusion": counts.tolist(),
        "per_class": class_scores(counts, judged.classes, support),
        **reliability_section(runs, judged.labels, bins=ECE_BINS),
        **{key: mean_of([each[key] for each in scores]) for key in scores[0]},
    }


def class_scores(
    counts_KK: Integers, classes: Sequence[str], support_K: Integers
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every class from counts [true, predicted].

    None where it is not defined: the recall of a class without samples, the precision of one that
    is never answered, the F1 of one that is neither.
    """
    hits, answered, there = counts_KK.diagonal(), counts_KK.sum(axis=0), counts_KK.sum(axis=1)
    recall = recalls(counts_KK)
    return [
        {
            "class": name,
            "precision": float(hits[k] / answered[k]) if answered[k] else None,
            "recall": float(recall[k]) if there[k] else None,
            "f1": float(2 * hits[k] / (answered[k] + there[k])) if answered[k] + there[k] else None,
            "support": int(support_K[k]),
        }
        for k, name in enumerate(classes)
    ]
