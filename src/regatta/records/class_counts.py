"""Predictions of which only counts are known: how many samples of each class were right.

`complete.json` then says `"unit": "class"`, and its one part is a table with the columns class,
condition, right, n_samples. Which samples were right is not known, and nothing here makes them up.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.records.conditions import Condition
from regatta.records.predictions import file_hash

CLASS_UNIT = "class"


@dataclass(frozen=True)
class ClassCounts:
    """Right answers of one run by class. counts: samples, int [K]; right: int [C, K]."""

    run_id: str
    entry: str
    seed: int
    conditions: list[Condition]
    classes: list[str]
    counts: np.ndarray
    right: np.ndarray
    fingerprint: dict[str, Any]
    origin: dict[str, Any]
    """What the import recorded of its file."""


def unit_of(folder: Path) -> str:
    """What a predictions folder holds: answers of each `sample`, or counts of each `class`."""
    marker = folder / "complete.json"
    return read_json(marker).get("unit", "sample") if marker.is_file() else "sample"


def class_table(
    conditions: list[Condition], classes: list[str], counts: np.ndarray, right: np.ndarray
) -> bytes:
    """The parquet table of counts [K] and right answers [C, K]."""
    cells = len(conditions)
    table = pa.table(
        {
            "class": classes * cells,
            "condition": [c.id for c in conditions for _ in classes],
            "right": pa.array(right.reshape(-1), pa.int64()),
            "n_samples": pa.array(np.tile(counts, cells), pa.int64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_class_counts(folder: Path, *, run_id: str, entry: str, seed: int) -> ClassCounts:
    """Load and verify the counts of one run.

    Raises:
        RecordError: the table is missing, was changed, or is no full grid.
    """
    complete = read_json(folder / "complete.json")
    conditions = [Condition(c["id"], c["axes"], c["is_reference"]) for c in complete["conditions"]]
    classes = complete["classes"]
    ((name, digest),) = complete["parts"].items()
    path = folder / name
    if not path.is_file() or file_hash(path) != digest:
        raise RecordError(
            "the table of classes is missing or was changed",
            where=path,
            hint="import it again with: regatta compare --import FILE",
        )
    table = pd.read_parquet(path)
    wanted = [(c.id, k) for c in conditions for k in classes]
    if list(zip(table["condition"], table["class"], strict=True)) != wanted:
        raise RecordError("the table is not one row per class and condition", where=path)
    shape = (len(conditions), len(classes))
    return ClassCounts(
        run_id,
        entry,
        seed,
        conditions,
        classes,
        table["n_samples"].to_numpy()[: len(classes)],
        table["right"].to_numpy().reshape(shape),
        complete["fingerprint"],
        complete.get("import", {}),
    )
