"""What an accuracy must be seen beside: answers without learning, without motion, class by class.

Shapes: U runs and baselines, N samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval, Statistic, exact_share
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.scene_errors import resample_values
from regatta.analysis.scene_judged import FORECAST
from regatta.records.scenes import SceneBaseline

SHORTCUTS = ("speed-only", "box-and-speed")


def right_answers(
    judged: JudgedStudy, baselines: list[SceneBaseline], headline: int
) -> tuple[Bootstrap, dict[str, int]]:
    """Right answers of entries and of baselines that name a class, in one resampling: of all
    samples, then of each class."""
    names: dict[str, int] = {}
    values, owners = [], []
    for entry in judged.entries:
        names[entry] = len(names)
        mine = [run.correct[headline] for run in judged.runs_of(entry)]
        values += mine
        owners += [names[entry]] * len(mine)
    for each in baselines:
        if (each.labels_N >= 0).any():
            names[each.label] = len(names)
            values.append(each.labels_N == judged.labels)
            owners.append(names[each.label])
    right_UN = np.stack(values)
    classes = [judged.labels == k for k in range(len(judged.classes))]
    columns = [right_UN, *(right_UN & mine for mine in classes)]
    columns += [np.broadcast_to(mine, right_UN.shape) for mine in classes]
    return resample_values(judged, np.stack(columns, axis=1), owners), names


def class_accuracy(
    judged: JudgedStudy, accuracy: tuple[Bootstrap, dict[str, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy within each class by entry."""
    drawn, names = accuracy
    count = len(judged.classes)
    found = {}
    for entry in judged.entries:
        place, rows = names[entry], []
        for k, name in enumerate(judged.classes):
            n = int((judged.labels == k).sum())
            share = Interval(None)
            if n:
                share = drawn.interval(
                    _ratio(place, 1 + k, 1 + count + k), entries=[place], collapse="point"
                )
            if share.estimate in (0.0, 1.0):
                # Replicates of a class that is all right, or all wrong, have no spread.
                ends = exact_share(share.estimate, n, confidence=drawn.confidence)
                share = Interval(share.estimate, *ends, method="exact")
            rows.append({"class": name, "n": n, "accuracy": share.as_dict()})
        found[entry] = rows
    return found


def _ratio(place: int, column: int, count: int) -> Statistic:
    """A column over a count, NaN in replicates that drew none."""

    def ratio(a: np.ndarray) -> np.ndarray:
        known = a[..., place, count]
        out = np.full(known.shape, np.nan)
        return np.divide(a[..., place, column], known, out=out, where=known > 0)

    return ratio


def baseline_rows(
    baselines: list[SceneBaseline],
    accuracy: tuple[Bootstrap, dict[str, int]],
    targets: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """A row per baseline: accuracy and mean squared error, None where it says nothing."""
    drawn, names = accuracy
    places = next((t["baselines"] for t in targets if t["target"] == FORECAST), {})
    rows = []
    for each in baselines:
        row = {"baseline": each.name, "track": each.track, "n": len(each.labels_N)}
        place, error = names.get(each.label), places.get(each.label)
        row["accuracy"] = None if place is None else _share(drawn, place).as_dict()
        row["mse"] = None if error is None else error["mse"]
        row["n_places"] = None if error is None else error["n"]
        rows.append(row)
    return rows


def _share(drawn: Bootstrap, place: int) -> Interval:
    return drawn.interval(lambda a: a[..., place, 0], entries=[place], collapse="share")


def above_shortcuts(
    judged: JudgedStudy, baselines: list[SceneBaseline], accuracy: tuple[Bootstrap, dict[str, int]]
) -> list[dict[str, Any]]:
    """Accuracy of every entry minus that of the shortcuts, in points; paired by sample."""
    drawn, names = accuracy
    rows = []
    for entry in judged.entries:
        for each in baselines:
            if each.name not in SHORTCUTS or each.label not in names:
                continue
            i, j = names[entry], names[each.label]
            found = drawn.interval(
                lambda a, i=i, j=j: a[..., i, 0] - a[..., j, 0],
                entries=[i, j],
                collapse="difference",
            )
            is_above = found.low is not None and found.low > 0
            difference = found.scaled(100).as_dict()
            rows.append(
                {"entry": entry, "shortcut": each.label, "difference_points": difference,
                 "is_above": is_above}
            )  # fmt: skip
    return rows


CONTROLS = ("single-frame", "one-frame", "shuffled", "shuffled-frames", "reversed", "static")


def control_rows(judged: JudgedStudy, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy under conditions that take the motion away, by entry."""
    ids = [c.id for c in judged.conditions if is_control(c.id, c.axes)]
    return [
        {"entry": row["model"], "condition": row["condition"], "accuracy": accuracy_of(row),
         "n": row["n_samples"]}
        for row in rows
        if row["condition"] in ids
    ]  # fmt: skip


def is_control(name: str, axes: dict[str, Any]) -> bool:
    return any(str(value) in CONTROLS for value in (name, *axes.values()))


def accuracy_of(row: dict[str, Any]) -> dict[str, Any]:
    """The interval of a row of the table of cells."""
    return {
        "estimate": row["accuracy"],
        "low": row["accuracy_low"],
        "high": row["accuracy_high"],
        "method": row["interval_method"],
        "note": "",
    }
