"""Imported predictions on disk: ordinary parts and `complete.json` of runs nobody trained.

Everything is written beside what is there, under names made of its content; one rename of
`complete.json` then puts it in place. A process that is killed before leaves what was there before.

Shapes: C conditions, N samples, K classes.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.expand import RunSpec
from regatta.core.files import disk_error, read_json, write_bytes, write_json
from regatta.records.class_counts import CLASS_UNIT, class_table
from regatta.records.fingerprint import UNKNOWN
from regatta.records.imports import ForeignCounts
from regatta.records.predictions import (
    TRUTH_COLUMNS,
    RunPredictions,
    complete_record,
    file_hash,
    write_part,
)
from regatta.records.run_folder import RunFolder

PART_SAMPLES = 4096
STAGE = ".import-"


@dataclass(frozen=True)
class Staged:
    """Predictions that are on disk but not in place yet."""

    spec: RunSpec
    run: RunFolder
    folder: Path
    complete: dict[str, Any]


def stage_scores(
    run: RunFolder, protocol: str, spec: RunSpec, found: RunPredictions, origin: dict[str, Any]
) -> Staged:
    """Write the parts of `found`, whose samples and conditions are those of the study.

    Raises:
        DiskError: nothing is changed, and nothing new is left.
    """
    folder = run.predictions(protocol)
    staging = folder / f"{STAGE}{os.getpid()}"
    try:
        parts = {}
        for number, start in enumerate(range(0, len(found.sample_ids), PART_SAMPLES)):
            chosen = slice(start, start + PART_SAMPLES)
            scores = found.scores[:, chosen]
            path = write_part(
                staging, number, _columns(found, chosen), scores.reshape(-1, scores.shape[2])
            )
            parts |= _placed(folder, path)
        record = complete_record(
            parts,
            conditions=found.conditions,
            classes=found.classes,
            sample_ids=found.sample_ids.tolist(),
            fingerprint=found.fingerprint,
            cost=found.cost,
        )
        complete = {**record, "ceiling": found.ceiling, "import": origin}
        return Staged(spec, run, folder, complete)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def stage_counts(
    run: RunFolder, protocol: str, spec: RunSpec, found: ForeignCounts, origin: dict[str, Any]
) -> Staged:
    """Write the table of `found`; nothing is said of single samples.

    Raises:
        DiskError.
    """
    folder = run.predictions(protocol)
    content = class_table(found.conditions, found.classes, found.counts, found.right)
    digest = sha256(content).hexdigest()
    name = f"classes-{digest[:12]}.parquet"
    write_bytes(folder / name, content)
    record = complete_record(
        {name: digest},
        conditions=found.conditions,
        classes=found.classes,
        sample_ids=[],
        fingerprint=UNKNOWN,
        cost={},
    )
    record |= {"unit": CLASS_UNIT, "samples": int(found.counts.sum())}
    return Staged(spec, run, folder, {**record, "import": origin})


def _columns(found: RunPredictions, chosen: slice) -> dict[str, Any]:
    """Columns of a part, condition after condition; what is not known is null."""
    ids, groups = found.sample_ids[chosen].tolist(), found.groups[chosen].tolist()
    cells = len(found.conditions)
    columns: dict[str, Any] = {
        "sample_id": ids * cells,
        "group": groups * cells,
        "condition": [c.id for c in found.conditions for _ in ids],
        "label": np.tile(found.labels[chosen], cells).astype(np.int32),
    }
    for name in TRUTH_COLUMNS:
        known = found.truth[name][:, chosen].reshape(-1) if name in found.truth else None
        columns[name] = (
            [None] * (cells * len(ids))
            if known is None
            else [_truth(name, value) for value in known.tolist()]
        )
    keys = found.clip_keys[:, chosen].reshape(-1).tolist() if found.clip_keys.size else None
    columns["clip_key"] = keys or [None] * (cells * len(ids))
    return columns


def _truth(name: str, value: float) -> float | int | None:
    if not np.isfinite(value):
        return None
    return int(value) if name == "distinct_frames" else value


def _placed(folder: Path, path: Path) -> dict[str, str]:
    """Move a written part to the name that its content gives; {name: hash}."""
    digest = file_hash(path)
    name = f"part-{digest[:12]}.parquet"
    try:
        os.replace(path, folder / name)
    except OSError as error:
        raise disk_error(error, folder / name) from error
    return {name: digest}


def put_in_place(staged: Staged) -> None:
    """Make staged predictions the run's own, and note in run.json where they came from.

    Raises:
        DiskError.
    """
    spec = staged.spec
    write_json(staged.folder / "complete.json", staged.complete)
    write_json(
        staged.run.run_json,
        {
            "run_id": spec.run_id,
            "entry": spec.entry.name,
            "model": spec.entry.model,
            "seed": spec.seed,
            "content_hash": spec.content_hash,
            "import": staged.complete["import"],
        },
    )


def tidy(run: RunFolder, folder: Path) -> None:
    """Delete what the predictions in `folder` do not list: parts that were replaced, or that never
    came into place. Folders that are empty then were made for them."""
    marker = folder / "complete.json"
    listed = read_json(marker)["parts"] if marker.is_file() else {}
    with suppress(OSError):
        for pattern in ("part-*.parquet", "classes-*.parquet", "ceiling.json", f"{STAGE}*"):
            for path in folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in listed:
                    path.unlink()
        for empty in (folder, folder.parent, run.path):
            empty.rmdir()
