"""What the training records of all runs say: curves for the figure, facts for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.core.files import read_json
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.report.curves import TrainingCurve

Series = tuple[np.ndarray, np.ndarray]


def read_training_curves(folder: StudyFolder) -> list[TrainingCurve]:
    """One curve per run that logged anything, in study order; x in epochs, accuracy in percent."""
    positions: dict[str, int] = {}
    curves = []
    for spec, run in folder.runs():
        position = positions.setdefault(spec.entry.name, len(positions))
        curve = training_curve(
            read_metrics(run.metrics), entry=spec.entry.name, position=position, seed=spec.seed
        )
        if not curve.is_empty():
            curves.append(curve)
    return curves


def training_curve(
    records: list[dict[str, Any]], *, entry: str, position: int, seed: int
) -> TrainingCurve:
    """The series of one run's `metrics.jsonl`."""
    steps_per_epoch = _steps_per_epoch(records)

    def series(split: str, key: str, factor: float = 1.0) -> Series:
        points = [
            (_epochs(record, steps_per_epoch), factor * record[key])
            for record in records
            if record.get("split", "train") == split and _is_number(record.get(key))
        ]
        points = [point for point in points if point[0] is not None]
        array = np.array(points, dtype=float).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    return TrainingCurve(
        entry=entry,
        position=position,
        seed=seed,
        train_loss=series("train", "loss"),
        validation_loss=series("validation", "loss"),
        train_accuracy=series("train", "accuracy", 100.0),
        validation_accuracy=series("validation", "accuracy", 100.0),
        lr=series("train", "lr"),
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    )


def _steps_per_epoch(records: list[dict[str, Any]]) -> float | None:
    """Steps of one epoch, from the validation records, which are written when an epoch ends."""
    ends = [
        record["step"] / record["epoch"]
        for record in records
        if record.get("split") == "validation" and record.get("step") and record.get("epoch")
    ]
    return max(ends) if ends else None


def _epochs(record: dict[str, Any], steps_per_epoch: float | None) -> float | None:
    if steps_per_epoch and _is_number(record.get("step")):
        return float(record["step"]) / steps_per_epoch
    return float(record["epoch"]) if _is_number(record.get("epoch")) else None


def read_results(run: RunFolder) -> dict[str, Any]:
    """`training_results.json` of a run, or nothing when it is not trained."""
    return read_json(run.training_results) if run.is_trained() else {}
