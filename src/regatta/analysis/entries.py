"""The section of each entry: its accuracy with intervals, its cost, and what is odd about it."""

from __future__ import annotations

from typing import Any

from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.budget import entry_cost
from regatta.analysis.judged import JudgedStudy
from regatta.core.files import read_json
from regatta.core.passed_on import hide_folders
from regatta.records.run_folder import RunFolder


def entry_section(
    judged: JudgedStudy,
    bootstrap: Bootstrap,
    position: int,
    headline: int,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    name = judged.entries[position]
    runs = judged.runs_of(name)
    mine = [row for row in rows if row["model"] == name]
    accuracy = bootstrap.interval(
        lambda a: a[..., position, headline], entries=[position], collapse="share"
    )
    average = bootstrap.interval(
        lambda a: a[..., position, :].mean(axis=-1), entries=[position], collapse="share"
    )
    best = max(mine, key=lambda row: row["accuracy"])
    worst = min(mine, key=lambda row: row["accuracy"])
    return {
        "name": name,
        **{key: hide_folders(runs[0].info.get(key)) for key in ("model", "size", "checkpoint")},
        "runs": [run_id for run in runs for run_id in run.run_ids],
        "seeds": [run.seed for run in runs],
        "accuracy": accuracy.as_dict(),
        "average_accuracy": average.as_dict(),
        "accuracy_by_seed": {run.seed: float(run.correct[headline].mean()) for run in runs},
        "top5": mine[headline]["top5"],
        "best": {key: best[key] for key in ("condition", "accuracy")},
        "worst": {key: worst[key] for key in ("condition", "accuracy")},
        "cost": entry_cost(runs),
        "weights": [weights for run in runs for weights in run.weights],
        "notes": _entry_notes(judged, name),
    }


def _entry_notes(judged: JudgedStudy, entry: str) -> list[str]:
    notes = []
    for run in judged.runs_of(entry):
        if run.constant is not None:
            notes.append(f"seed {run.seed} answers {run.constant!r} for every sample")
        share = float(run.correct.mean())
        if share in (0.0, 1.0):
            notes.append(f"seed {run.seed} is {'right' if share else 'wrong'} on every sample")
    fitted = (_fitted_positions(judged.folder.run(run.run_id)) for run in judged.runs_of(entry))
    return notes + list(dict.fromkeys(note for found in fitted for note in found))


def _fitted_positions(run: RunFolder) -> list[str]:
    """What was changed in a checkpoint's position embeddings to take the entry's clips."""
    keys = read_json(run.weights) if run.weights.is_file() else {}
    return [
        f"positions of the checkpoint fitted to the clips: {key} ({what})"
        for key, what in keys.get("interpolated", {}).items()
    ]
