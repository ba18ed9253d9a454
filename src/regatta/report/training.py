"""What the training records of all runs say: curves for the figure, facts for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.core.files import read_json
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.report.training_plots import Series, TrainingCurve


def read_training_curves(folder: StudyFolder) -> list[TrainingCurve]:
    """One curve per run that logged anything, in study order; x in epochs, accuracy in percent."""
    positions: dict[str, int] = {}
    curves = []
    for spec, run in folder.runs():
        position = positions.setdefault(spec.entry.name, len(positions))
        curve = training_curve(
            read_metrics(run.metrics),
            read_results(run),
            entry=spec.entry.name,
            position=position,
            seed=spec.seed,
        )
        if not curve.is_empty():
            curves.append(curve)
    return curves


def training_curve(
    records: list[dict[str, Any]],
    results: dict[str, Any],
    *,
    entry: str,
    position: int,
    seed: int,
) -> TrainingCurve:
    """The series of one run: of whole epochs from `training_results.json`, where it is there, else
    of steps from `metrics.jsonl`, which alone knows the learning rate of each step."""
    steps_per_epoch = _steps_per_epoch(records)

    def logged(split: str, key: str, factor: float = 1.0) -> Series:
        points = [
            (_epochs(record, steps_per_epoch), factor * record[key])
            for record in records
            if record.get("split", "train") == split and _is_number(record.get(key))
        ]
        return _series([(x, y) for x, y in points if x is not None])

    def series(column: str, split: str, key: str, factor: float = 1.0) -> Series:
        whole = epoch_series(results, column, factor)
        return whole if len(whole[0]) else logged(split, key, factor)

    lr = logged("train", "lr")
    return TrainingCurve(
        entry=entry,
        position=position,
        seed=seed,
        train_loss=series("train_loss", "train", "loss"),
        validation_loss=series("val_loss", "validation", "loss"),
        train_accuracy=series("train_acc", "train", "accuracy", 100.0),
        validation_accuracy=series("val_acc", "validation", "accuracy", 100.0),
        lr=lr if len(lr[0]) else epoch_series(results, "learning_rates"),
        epoch_seconds=epoch_series(results, "epoch_times"),
    )


def epoch_series(results: dict[str, Any], column: str, factor: float = 1.0) -> Series:
    """A column of the history in `training_results.json` against its epochs; values that are not
    numbers are left out."""
    history = results.get("history")
    if not isinstance(history, dict):
        return _series([])
    values = history.get(column) or []
    epochs = history.get("epoch") or range(1, len(values) + 1)
    pairs = zip(epochs, values, strict=False)
    return _series([(float(x), factor * y) for x, y in pairs if _is_number(x) and _is_number(y)])


def _series(points: list[tuple[float, float]]) -> Series:
    array = np.array(points, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


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
