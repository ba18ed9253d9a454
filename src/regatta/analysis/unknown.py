"""Do models notice what they never learnt: classes kept from training against the known ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.sensor_tables import is_of_signals
from regatta.analysis.tables import csv_text
from regatta.metrics.unknown import aupr, auroc, fpr_at_recall, novelty
from regatta.records.predictions import UNKNOWN_FOLDER, read_run_predictions

MEASURES = {"auroc": auroc, "aupr": aupr, "fpr_at_95": fpr_at_recall}
NOT_MEASURED = "not measured"
COLUMNS = ("run", "entry", "seed", *MEASURES, "n_known", "n_unknown")


def unknown_section(judged: JudgedStudy, headline: int) -> dict[str, Any] | None:
    """Section `unknown` of comparison.json: a row per run; None for studies of videos.

    The score is 1 - the highest probability, on the samples as they were recorded. Numbers are None
    where no class was kept from the models, or where the headline is no unchanged condition.
    """
    if not is_of_signals(judged):
        return None
    classes = judged.study.data.unknown_classes
    is_clean = judged.conditions[headline].is_reference
    rows = [_row(judged, run, measured=bool(classes) and is_clean) for run in judged.runs]
    return {"classes": classes, "score": "1 - highest probability", "runs": rows}


def unknown_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text; "not measured" stands where a number would."""
    if section is None:
        return {}
    rows = [
        [NOT_MEASURED if row[name] is None else row[name] for name in COLUMNS]
        for row in section["runs"]
    ]
    return {"unknown.csv": csv_text(COLUMNS, rows)}


def _row(judged: JudgedStudy, run: JudgedRun, *, measured: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.run_id, "entry": run.entry, "seed": run.seed}
    folder = judged.folder.run(run.run_id).predictions(judged.protocol) / UNKNOWN_FOLDER
    if not measured or not (folder / "complete.json").is_file():
        return row | dict.fromkeys((*MEASURES, "n_known", "n_unknown"))
    found = read_run_predictions(folder, run_id=run.run_id, entry=run.entry, seed=run.seed)
    unknown = novelty(found.scores[0])
    known = novelty(run.headline_scores.astype(np.float64))
    values = {name: measure(unknown, known) for name, measure in MEASURES.items()}
    return row | values | {"n_known": len(known), "n_unknown": len(unknown)}
