"""Writes the predictions of a judged run as other programs would: CSV, NumPy archive, class table.

Numbers are written with all their digits, so that what comes back must be equal, bit by bit.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import protocol_id
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder


def predictions_of(folder: StudyFolder, entry: str, seed: int = 0) -> RunPredictions:
    """What the store of a study holds of one run."""
    protocol = protocol_id(folder.study().protocol)
    spec, run = next(
        pair for pair in folder.runs() if (pair[0].entry.name, pair[0].seed) == (entry, seed)
    )
    return read_run_predictions(
        run.predictions(protocol), run_id=spec.run_id, entry=entry, seed=seed
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def export_csv(
    path: Path,
    found: RunPredictions,
    *,
    named: bool = True,
    groups: bool = True,
    axes: Sequence[str] = (),
    condition: bool = False,
    shuffled: int | None = None,
) -> Path:
    """A row per sample and condition; labels are names where the columns are."""
    scores = [f"score_{name if named else k}" for k, name in enumerate(found.classes)]
    extra = (["group"] if groups else []) + (["condition"] if condition else []) + list(axes)
    rows = []
    for c, cell in enumerate(found.conditions):
        for n, sample in enumerate(found.sample_ids):
            label = int(found.labels[n])
            row: list[Any] = [sample, found.classes[label] if named else label]
            row += [found.groups[n]] if groups else []
            row += [cell.id] if condition else []
            row += [cell.axes[name] for name in axes]
            rows.append([*row, *(repr(float(x)) for x in found.scores[c, n])])
    if shuffled is not None:
        np.random.default_rng(shuffled).shuffle(rows)
    return write_rows(path, ["sample_id", "label", *extra, *scores], rows)


def export_npz(path: Path, found: RunPredictions, **changes: Any) -> Path:
    """All that an archive may hold; a change to None leaves an array out."""
    arrays: dict[str, Any] = {
        "scores": found.scores,
        "labels": found.labels,
        "sample_ids": found.sample_ids,
        "groups": found.groups,
        "classes": np.array(found.classes),
        "conditions": np.array([c.id for c in found.conditions]),
    }
    kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **kept)
    return path
