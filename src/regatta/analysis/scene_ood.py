"""Scenes from outside the ranges of training: accuracy and error there, and whether a class that
no entry was trained on is noticed.

A set with samples of known classes is judged as the test split is; one of an unknown class (label
-1) by the highest probability alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.fusion_ood import detection
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.positions import squared_error
from regatta.analysis.scene_errors import STEPS, resample_values
from regatta.core.errors import RecordError
from regatta.metrics.unknown import novelty
from regatta.records.predictions import OOD_FOLDER, RunPredictions, read_run_predictions

DETECTION = ("auroc", "aupr", "fpr95")


def ood_rows(judged: JudgedStudy) -> list[dict[str, Any]]:
    """A row per set and entry: accuracy and mse with intervals, or the measures of detection (mean
    over seeds); a set that a run was not judged on is left out for its entry and said."""
    rows = []
    for name in _sets(judged):
        for entry in judged.entries:
            found = [_read(judged, run, name) for run in judged.runs_of(entry)]
            runs = [each for each in found if each is not None]
            start = {"set": name, "entry": entry, "seeds": len(runs)}
            if len(runs) < len(found):
                rows.append({**start, **EMPTY, "reason": "not judged"})
            elif (runs[0].labels < 0).all():
                rows.append({**start, **EMPTY, **_noticed(judged.runs_of(entry), runs)})
            else:
                rows.append({**start, **EMPTY, **_answered(judged, runs)})
    return rows


EMPTY: dict[str, Any] = {
    "n": None,
    "accuracy": None,
    "mse": None,
    **dict.fromkeys(DETECTION),
    "reason": "",
}


def _sets(judged: JudgedStudy) -> list[str]:
    found = {
        path.parent.name: None
        for run in judged.runs
        for path in sorted(_folder(judged, run).glob("*/complete.json"))
    }
    return list(found)


def _folder(judged: JudgedStudy, run: JudgedRun) -> Any:
    return judged.folder.run(run.run_id).predictions(judged.protocol) / OOD_FOLDER


def _read(judged: JudgedStudy, run: JudgedRun, name: str) -> RunPredictions | None:
    folder = _folder(judged, run) / name
    if not (folder / "complete.json").is_file():
        return None
    return read_run_predictions(folder, run_id=run.run_id, entry=run.entry, seed=run.seed)


def _noticed(inside: list[JudgedRun], outside: list[RunPredictions]) -> dict[str, Any]:
    """How well 1 - the highest probability tells the unknown class from the test split."""
    each = [
        detection(novelty(far.scores[0].astype(float)), novelty(near.headline_scores.astype(float)))
        for near, far in zip(inside, outside, strict=True)
    ]
    means = {key: float(np.mean([one[key] for one in each])) for key in DETECTION}
    return {"n": len(outside[0].sample_ids), **means}


def _answered(judged: JudgedStudy, runs: list[RunPredictions]) -> dict[str, Any]:
    first = runs[0]
    if any(not np.array_equal(first.sample_ids, run.sample_ids) for run in runs[1:]):
        raise RecordError(
            "seeds of an entry were judged on other samples of a set",
            where=f"{first.run_id} and others",
            hint="delete their predictions and run the study again: only they are redone",
        )
    correct = np.stack([run.correct()[:1] for run in runs])
    values, step = [correct.astype(np.int64)], 0.0
    places = [r.positions[:1] for r in runs if r.positions is not None]
    if len(places) == len(runs) and first.targets is not None:
        squared = squared_error(np.stack(places), first.targets)
        step = float(np.nanmax(squared, initial=1e-9)) / STEPS
        values += [np.rint(np.nan_to_num(squared) / step), np.isfinite(squared)]
    table = np.concatenate([each.astype(np.int64) for each in values], axis=1)
    drawn = resample_values(judged, table, [0] * len(runs), groups=first.groups)
    accuracy = drawn.interval(lambda a: a[..., 0, 0], entries=[0], collapse="share")
    mse = None
    if step:
        mse = drawn.interval(
            lambda a: step * a[..., 0, 1] / a[..., 0, 2], entries=[0], collapse="point"
        ).as_dict()
    return {"n": len(first.sample_ids), "accuracy": accuracy.as_dict(), "mse": mse}
