"""Do the networks of a fusion study notice images from elsewhere.

Images from elsewhere are the positives, and higher scores mean "from elsewhere": 1 - the highest
probability (Hendrycks and Gimpel 2017), or the energy -log sum exp of the logits (Liu et al. 2020).
What was not judged is "not measured", never a number.

Shapes: U images from elsewhere, V of the data's own, K classes.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.core.files import slug
from regatta.metrics.classification import Floats, check_finite
from regatta.metrics.unknown import aupr, auroc, fpr_at_recall, novelty
from regatta.records.predictions import OOD_FOLDER, read_run_predictions

RECALL = 0.95
MEASURED, NOT_MEASURED = "measured", "not measured"
IMAGES = "images:"
NUMBERS = ("auroc", "aupr", "fpr95", "detection_accuracy", "threshold")
OOD_COLUMNS = (
    "ood_dataset",
    "ood_type",
    *NUMBERS,
    "score",
    "n_in",
    "n_out",
    "status",
    "entry",
    "role",
    "seed",
    "run",
)


def energy(logits_NK: Any) -> Floats:
    """-log sum exp of the logits, [N]; high where no class is likely."""
    logits = check_finite(logits_NK)
    highest = logits.max(axis=1)
    return -(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)))


SCORES = {"max-softmax": novelty, "energy": energy}


def detection(outside_U: np.ndarray, inside_V: np.ndarray) -> dict[str, float]:
    """NUMBERS of one score: fpr95 and threshold where 95 % of what is from elsewhere is found;
    detection_accuracy = the best mean of both rates over all thresholds."""
    needed = int(np.ceil(round(RECALL * len(outside_U), 9)))
    values = np.unique(np.concatenate([outside_U, inside_V]))
    found = 1 - np.searchsorted(np.sort(outside_U), values, side="left") / len(outside_U)
    passed = np.searchsorted(np.sort(inside_V), values, side="left") / len(inside_V)
    return {
        "auroc": auroc(outside_U, inside_V),
        "aupr": aupr(outside_U, inside_V),
        "fpr95": fpr_at_recall(outside_U, inside_V, recall=RECALL),
        # Above every value nothing is found and all pass, which is half right.
        "detection_accuracy": float(max(((found + passed) / 2).max(), 0.5)),
        "threshold": float(np.sort(outside_U)[len(outside_U) - needed]),
    }


def ood_rows(judged: JudgedStudy, headline: int) -> list[dict[str, Any]]:
    """A row per run, set and score; sets are those that the study names and those that are there.

    The data's own images are those of the headline, where it shows them unchanged.
    """
    folders = {
        run.run_id: judged.folder.run(run.run_id).predictions(judged.protocol) / OOD_FOLDER
        for run in judged.runs
    }
    present = {
        path.parent.name: None
        for folder in folders.values()
        for path in sorted(folder.glob("*/complete.json"))
    }
    asked = [ood_name(str(item)) for item in judged.study.protocol.options.get("ood", [])]
    is_clean = judged.conditions[headline].is_reference or len(judged.conditions) == 1
    roles = {entry.name: entry.role for entry in judged.study.entries}
    rows = []
    for name in dict.fromkeys([*asked, *present]):
        for run in judged.runs:
            start = {
                "ood_dataset": name,
                "ood_type": "noise" if name.endswith("noise") else "images",
                "entry": run.entry,
                "role": roles[run.entry],
                "seed": run.seed,
                "run": run.run_id,
            }
            rows += _rows_of(run, folders[run.run_id] / name, start, measured=is_clean)
    return rows


def _rows_of(
    run: JudgedRun, folder: Any, start: dict[str, Any], *, measured: bool
) -> list[dict[str, Any]]:
    if not measured or not (folder / "complete.json").is_file():
        none = dict.fromkeys((*NUMBERS, "n_in", "n_out"))
        return [{**start, **none, "score": score, "status": NOT_MEASURED} for score in SCORES]
    found = read_run_predictions(folder, run_id=run.run_id, entry=run.entry, seed=run.seed)
    outside, inside = found.scores[0].astype(float), run.headline_scores.astype(float)
    return [
        {
            **start,
            **detection(measure(outside), measure(inside)),
            "score": score,
            "n_in": len(inside),
            "n_out": len(outside),
            "status": MEASURED,
        }
        for score, measure in SCORES.items()
    ]


def ood_name(item: str) -> str:
    """Folder of a set as a study names it: of files the last part of their path."""
    if not item.startswith(IMAGES):
        return item
    return slug(PurePath(item.removeprefix(IMAGES)).stem)
