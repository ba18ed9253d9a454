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
from regatta.core.files import read_json_object
from regatta.records.conditions import Condition
from regatta.records.predictions import UNREADABLE, file_hash, read_complete

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
    return read_json_object(marker).get("unit", "sample") if marker.is_file() else "sample"


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
    complete = read_complete(folder)
    conditions: list[Condition] = complete["conditions"]
    classes: list[str] = complete["classes"]
    if len(complete["parts"]) != 1:
        raise RecordError("counts are one table", where=folder / "complete.json")
    ((name, digest),) = complete["parts"].items()
    path = folder / name
    if not path.is_file() or file_hash(path) != digest:
        raise RecordError(
            "the table of classes is missing or was changed",
            where=path,
            hint="import it again with: regatta compare --import FILE",
        )
    shape = (len(conditions), len(classes))
    right, counts = _read_counts(path, [(c.id, k) for c in conditions for k in classes], shape)
    return ClassCounts(
        run_id,
        entry,
        seed,
        conditions,
        classes,
        counts[0],
        right,
        complete["fingerprint"],
        complete.get("import", {}),
    )


def _read_counts(
    path: Path, wanted: list[tuple[str, str]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(right, samples), each int [C, K]; RecordError where they contradict each other."""
    try:
        table = pd.read_parquet(path)
        cells = list(zip(table["condition"], table["class"], strict=True))
        right, counts = table["right"].to_numpy(), table["n_samples"].to_numpy()
    except UNREADABLE as error:
        raise RecordError(f"the table of classes is damaged: {error}", where=path) from error
    if cells != wanted:
        raise RecordError("the table is not one row per class and condition", where=path)
    whole = right.dtype.kind in "iu" and counts.dtype.kind in "iu"
    right, counts = right.reshape(shape), counts.reshape(shape)
    if not whole or (right < 0).any() or (right > counts).any() or (counts != counts[0]).any():
        raise RecordError("the table counts more right answers than samples", where=path)
    return right, counts
