"""Section `scenes` of comparison.json: how well entries say where an object will be, beside what is
known without learning anything.

Accuracies are fractions, places and roots in u, mean squared errors in u^2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedStudy
from regatta.analysis.positions import error_quantiles, squared_error
from regatta.analysis.scene_ensemble import ensemble_section
from regatta.analysis.scene_errors import (
    PARTS,
    Errors,
    Frame,
    Placing,
    class_column,
    class_count,
    condition_errors,
    resample_errors,
)
from regatta.analysis.scene_judged import FORECAST, Placed, is_of_scenes, read_placed
from regatta.analysis.scene_ood import ood_rows
from regatta.analysis.scene_pairs import compare_errors, error_pairs
from regatta.analysis.scene_shortcuts import (
    above_shortcuts,
    accuracy_of,
    baseline_rows,
    class_accuracy,
    control_rows,
    right_answers,
)
from regatta.analysis.scene_tables import entry_facts, result_rows, scene_files
from regatta.analysis.scene_words import last_position_notes, target_sentence
from regatta.records.scenes import (
    SceneBaseline,
    SceneTruth,
    read_baselines,
    read_cameras,
    read_truth,
)

REFERENCE, LAST = "constant velocity", "last position"
"""Of the true track: what a forecast is set against."""
PART_COUNTS = dict(zip(PARTS, ("n moving", "n moving", "n seen", "n seen"), strict=True))


@dataclass(frozen=True)
class Known:
    """What judging left beside the predictions, in the order of the judged samples."""

    truth: SceneTruth | None
    rotation_33: np.ndarray | None
    baselines: list[SceneBaseline] = field(default_factory=list)


def scene_section(
    judged: JudgedStudy,
    headline: int,
    rows: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    classification: dict[str, Any],
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Section `scenes` and the files that only such a study has; None and no files for any other.

    Args:
        rows: the table of cells, with accuracies. pairs: of accuracies at the headline.
        classification: that section of comparison.json.
    """
    if judged.unit == "class" or not is_of_scenes(judged):
        return None, {}
    known = _read_known(judged)
    placed = read_placed(judged)
    accuracy = right_answers(judged, known.baselines, headline)
    targets = [_target(judged, each, known, headline) for each in placed]
    facts = {name: entry_facts(judged, name) for name in judged.entries}
    section: dict[str, Any] = {
        "condition": judged.conditions[headline].id,
        "entries": facts,
        "class_accuracy": class_accuracy(judged, accuracy),
        "targets": targets,
        "baselines": baseline_rows(known.baselines, accuracy, targets),
        "above_shortcuts": above_shortcuts(judged, known.baselines, accuracy),
        "controls": control_rows(judged, rows),
        "robustness": _robustness(judged, placed, rows, targets, headline),
        "ood": ood_rows(judged),
        "ensemble": ensemble_section(judged, placed[0], headline) if placed else None,
        "sentences": [target_sentence(each) for each in targets],
        "notes": _notes(judged, known, targets),
    }
    section["rows"] = {
        each["target"]: result_rows(judged, section, each, rows, pairs) for each in targets
    }
    return section, scene_files(judged, section, classification)


def _read_known(judged: JudgedStudy) -> Known:
    folder = judged.folder.scenes
    truth, cameras = read_truth(folder), read_cameras(folder)
    return Known(
        None if truth is None else truth.at(judged.sample_ids),
        None if cameras is None else cameras.rotations[0],
        read_baselines(folder, judged.sample_ids),
    )


def _target(judged: JudgedStudy, placed: Placed, known: Known, headline: int) -> dict[str, Any]:
    """Everything of one target; without a true place only that it is not known."""
    start = {
        "target": placed.target,
        "horizon_frames": placed.horizon_frames,
        "n": int(np.isfinite(placed.targets_N3).all(axis=1).sum()),
    }
    if start["n"] == 0:
        return {**start, "entries": [], "pairs": [], "baselines": {}, "notes": [NO_TRUTH]}
    is_forecast = placed.target == FORECAST
    entries = {
        name: np.stack([run.positions_CN3[headline] for run in placed.runs_of(name)])
        for name in placed.entries
    }
    placings = [Placing(name, places) for name, places in entries.items()]
    others = _reference_placings(known, placed) if is_forecast else []
    baselines = [
        Placing(each.label, each.positions_N3[None])
        for each in known.baselines
        if is_forecast and np.isfinite(each.positions_N3).all(axis=1).any()
    ]
    velocity = known.truth.velocity_N3 if known.truth else None
    frame = Frame(
        judged.labels, len(judged.classes), placed.targets_N3, velocity, known.rotation_33
    )
    errors = resample_errors(judged, [*placings, *others, *baselines], frame)
    squared = {each.name: _squared(each, placed) for each in (*placings, *others)}
    own = {name: squared[name] for name in entries}
    against_last = []
    if LAST in squared:
        against_last = compare_errors(judged, errors, squared, [(name, LAST) for name in entries])
    return {
        **start,
        "entries": [
            _entry(judged, errors, placed, each, REFERENCE in squared) for each in placings
        ],
        "pairs": error_pairs(judged, errors, own),
        "against_last": against_last,
        "baselines": {
            each.name: {
                "mse": errors.mean(each.name, "squared").as_dict(),
                "n": errors.count(each.name),
                "per_class": _class_errors(judged, errors, each.name, has_reference=False),
            }
            for each in (*others, *baselines)
        },
        "notes": last_position_notes(against_last),
    }


NO_TRUTH = "the true places are not known, so errors are not measured"


def _reference_placings(known: Known, placed: Placed) -> list[Placing]:
    """Forecasts from the true track, where it is known."""
    if known.truth is None:
        return []
    found = {REFERENCE: known.truth.forecast_N3, LAST: known.truth.last_N3}
    there = np.isfinite(placed.targets_N3).all(axis=1)
    return [
        Placing(name, places[None])
        for name, places in found.items()
        if np.isfinite(places[there]).all()
    ]


def _squared(placing: Placing, placed: Placed) -> np.ndarray:
    found = squared_error(placing.positions_SN3, placed.targets_N3)
    return np.where(np.isfinite(found), found, 0.0)


def _entry(
    judged: JudgedStudy, errors: Errors, placed: Placed, placing: Placing, has_reference: bool
) -> dict[str, Any]:
    """One entry's errors, all classes together and class by class."""
    name = placing.name
    there = np.isfinite(placed.targets_N3).all(axis=1)
    quantiles = error_quantiles(placing.positions_SN3[:, there], placed.targets_N3[there])
    parts = {
        part: errors.root(name, part, of=of).as_dict() if errors.count(name, of) else None
        for part, of in PART_COUNTS.items()
    }
    return {
        "entry": name,
        "seeds": [run.seed for run in placed.runs_of(name)],
        "n": errors.count(name),
        "mse": errors.mean(name, "squared").as_dict(),
        "rmse": errors.root(name, "squared").as_dict(),
        "mae": errors.mean(name, "absolute").as_dict(),
        **quantiles,
        **parts,
        "skill": _skill(errors, name, "squared", "n") if has_reference else None,
        "per_class": _class_errors(judged, errors, name, has_reference=has_reference),
    }


def _class_errors(
    judged: JudgedStudy, errors: Errors, name: str, *, has_reference: bool
) -> list[dict[str, Any]]:
    found = []
    for k, label in enumerate(judged.classes):
        column, of = class_column(k), class_count(k)
        skill = _skill(errors, name, column, of) if has_reference else None
        mse = errors.mean(name, column, of=of).as_dict()
        found.append({"class": label, "n": errors.count(name, of), "mse": mse, "skill": skill})
    return found


def _skill(errors: Errors, name: str, column: str, of: str) -> dict[str, Any] | None:
    """None where constant velocity is exact, as for straight lines."""
    found = errors.skill(name, REFERENCE, column, of)
    return None if found.estimate is None else found.as_dict()


def change_of(name: str, axes: dict[str, Any]) -> tuple[str, float | None]:
    """What a condition changes, and how much of it where that is a number."""
    words = [str(value) for value in axes.values() if not isinstance(value, (int, float))]
    levels = [(key, value) for key, value in axes.items() if isinstance(value, (int, float))]
    if not levels:
        return (words[0] if words else name), None
    key, value = levels[-1]
    return (words[0] if words else key), float(value)


def _robustness(
    judged: JudgedStudy,
    placed: list[Placed],
    rows: list[dict[str, Any]],
    targets: list[dict[str, Any]],
    headline: int,
) -> list[dict[str, Any]]:
    """Accuracy and, of the first target, mean squared error per entry and condition."""
    if len(judged.conditions) < 2:
        return []
    errors: dict[tuple[str, str], dict[str, Any]] = {}
    if placed and np.isfinite(placed[0].targets_N3).all(axis=1).any():
        positions = [
            np.stack([run.positions_CN3 for run in placed[0].runs_of(name)])
            for name in placed[0].entries
        ]
        found = condition_errors(judged, positions, placed[0].targets_N3)
        for name, each in zip(placed[0].entries, found, strict=True):
            for condition, interval in zip(judged.conditions, each, strict=True):
                errors[name, condition.id] = interval.as_dict()
        # One number, one interval: that of the headline stands in the table of errors already.
        for row in targets[0]["entries"]:
            errors[row["entry"], judged.conditions[headline].id] = row["mse"]
    by_id = {c.id: c for c in judged.conditions}
    told = []
    for row in rows:
        condition = by_id[row["condition"]]
        change, level = change_of(condition.id, condition.axes)
        told.append(
            {
                "entry": row["model"],
                "condition": condition.id,
                "change": change,
                "level": level,
                "is_reference": condition.is_reference,
                "accuracy": accuracy_of(row),
                "mse": errors.get((row["model"], condition.id)),
                "pad_share": row["pad_share"],
                "n": row["n_samples"],
            }
        )
    return told


def _notes(judged: JudgedStudy, known: Known, targets: list[dict[str, Any]]) -> list[str]:
    notes = [note for each in targets for note in each["notes"]]
    if known.truth is None:
        notes.append(
            "the true tracks were not recorded: skill and error along the motion are not measured"
        )
    if not known.baselines:
        notes.append("baselines without learning were not judged")
    if known.rotation_33 is None:
        notes.append("cameras were not recorded: error in depth is not measured")
    silent = [
        name
        for name in judged.entries
        if all(name not in [row["entry"] for row in each["entries"]] for each in targets)
    ]
    if silent and targets:
        notes.append(f"no place is said by {', '.join(silent)}")
    return notes
