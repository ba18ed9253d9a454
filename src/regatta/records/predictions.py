"""The prediction store: one row per run, sample and condition, in small parquet parts.

A part holds *all* conditions of its samples, as one decode of a sample serves them all; it is
the unit that an interrupted judging resumes at. `complete.json`, written last, lists every part
with its hash.

Columns of a part (see `part_schema`): sample_id, group, condition, label, scores (float32 logits,
one per class; of a condition with several views the logarithm of their mean probabilities, or their
mean logits), distinct_frames, span_seconds, rate_hz (over the union of all views), pad_share (their
mean), clip_key (equal keys = the model saw the identical clips).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regatta.core.errors import ConfigError, RecordError
from regatta.core.files import atomic_path, read_json, write_json
from regatta.core.registry import nearest

UNKNOWN_FOLDER = "unknown"
"""Below a run's predictions: those on samples of classes that the study keeps from its models, as
recorded, with the label -1."""
TRUTH_COLUMNS = ("distinct_frames", "span_seconds", "rate_hz", "pad_share")


def part_schema(classes: int) -> pa.Schema:
    """Arrow schema of a part for `classes` classes."""
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("group", pa.string()),
            ("condition", pa.string()),
            ("label", pa.int32()),
            ("scores", pa.list_(pa.float32(), classes)),
            ("distinct_frames", pa.int32()),
            ("span_seconds", pa.float64()),
            ("rate_hz", pa.float64()),
            ("pad_share", pa.float64()),
            ("clip_key", pa.string()),
        ]
    )


def part_path(folder: Path, number: int) -> Path:
    """File of part `number` in a predictions folder."""
    return folder / f"part-{number:05d}.parquet"


def write_part(folder: Path, number: int, columns: dict[str, Any], scores: np.ndarray) -> Path:
    """Write part `number` atomically.

    Args:
        folder: `RunFolder.predictions(protocol_id)`.
        columns: every column of the schema except scores, each of length N.
        scores: float32 [N, K].
    """
    path = part_path(folder, number)
    flat = pa.array(np.ascontiguousarray(scores, dtype=np.float32).reshape(-1))
    arrays = {**columns, "scores": pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])}
    schema = part_schema(scores.shape[1])
    table = pa.table({name: arrays[name] for name in schema.names}, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def read_part(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """One part as (columns without scores, float32 scores [N, K]); RecordError when it is
    damaged."""
    try:
        table = pq.read_table(path)
        column = table.column("scores").combine_chunks()
        classes = table.schema.field("scores").type.list_size
        scores = np.asarray(column.flatten(), dtype=np.float32).reshape(-1, classes)
        return table.drop_columns(["scores"]).to_pandas(), scores
    except (OSError, KeyError, pa.ArrowException, AttributeError) as error:
        raise RecordError(
            f"prediction file is damaged: {error}",
            where=path,
            hint="delete it and run the study again",
        ) from error


def file_hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Condition:
    """One cell of a protocol as the light side knows it.

    `axes` holds what varies, for the temporal grid {"coverage": 50, "stride": 4}.
    """

    id: str
    axes: dict[str, Any] = field(default_factory=dict)
    is_reference: bool = False


def find_condition(conditions: Sequence[Condition], wanted: str) -> int:
    """Position of the condition called `wanted`; `reference` is the protocol's own.

    Raises ConfigError with the nearest id. Without a marked reference it is the first.
    """
    ids = [condition.id for condition in conditions]
    if wanted in ids:
        return ids.index(wanted)
    if wanted != "reference":
        close = nearest(wanted, ids)
        guess = f"did you mean '{close}'? " if close else ""
        raise ConfigError(
            f"the protocol has no condition '{wanted}'",
            where="compare.condition",
            hint=f"{guess}reference, or one of: {', '.join(ids)}",
        )
    return next((i for i, c in enumerate(conditions) if c.is_reference), 0)


def write_complete(
    folder: Path,
    *,
    conditions: list[Condition],
    classes: list[str],
    sample_ids: list[str],
    fingerprint: dict[str, Any],
    cost: dict[str, Any],
) -> None:
    """Mark a run's predictions as whole: every part on disk listed with its hash. Written last."""
    parts = sorted(folder.glob("part-*.parquet"))
    write_json(
        folder / "complete.json",
        {
            "parts": {path.name: file_hash(path) for path in parts},
            "conditions": [
                {"id": c.id, "axes": c.axes, "is_reference": c.is_reference} for c in conditions
            ],
            "classes": classes,
            "samples": len(sample_ids),
            "sample_ids_hash": sha256("\n".join(sorted(sample_ids)).encode()).hexdigest(),
            "fingerprint": fingerprint,
            "cost": cost,
        },
    )


@dataclass(frozen=True)
class RunPredictions:
    """All predictions of one run under one protocol.

    scores: float32 [C, N, K] logits; labels int [N]; truth maps each of TRUTH_COLUMNS to [C, N];
    clip_keys str [C, N]. C follows `conditions`, N follows `sample_ids` (sorted).
    """

    run_id: str
    entry: str
    seed: int
    conditions: list[Condition]
    classes: list[str]
    sample_ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    truth: dict[str, np.ndarray]
    clip_keys: np.ndarray
    fingerprint: dict[str, Any]
    cost: dict[str, Any]
    ceiling: dict[str, float]
    """Oracle accuracy per condition where the source knows it, else empty."""

    def correct(self) -> np.ndarray:
        """bool [C, N]; the first of equal highest scores wins."""
        return self.scores.argmax(axis=2) == self.labels[None, :]


def read_run_predictions(folder: Path, *, run_id: str, entry: str, seed: int) -> RunPredictions:
    """Load and verify one run's predictions.

    Raises:
        RecordError: not complete, a part is missing or changed, or samples and conditions do not
        form a full grid.
    """
    marker = folder / "complete.json"
    if not marker.is_file():
        raise RecordError(
            "this run is not judged yet",
            where=folder,
            hint="finish it with: regatta run <study file>",
        )
    complete = read_json(marker)
    frames, scores = [], []
    for name, digest in complete["parts"].items():
        path = folder / name
        if not path.is_file() or file_hash(path) != digest:
            raise RecordError(
                "prediction file is missing or was changed",
                where=path,
                hint=f"delete it and {marker.name}, then run the study again: only it is redone",
            )
        frame, part_scores = read_part(path)
        frames.append(frame)
        scores.append(part_scores)
    conditions = [Condition(c["id"], c["axes"], c["is_reference"]) for c in complete["conditions"]]
    table, flat = pd.concat(frames, ignore_index=True), np.concatenate(scores)
    shaped = _as_grid(table, [c.id for c in conditions], folder)
    cells, samples = len(conditions), len(table) // len(conditions)
    grid = {name: table[name].to_numpy()[shaped].reshape(cells, samples) for name in table.columns}
    return RunPredictions(
        run_id=run_id,
        entry=entry,
        seed=seed,
        conditions=conditions,
        classes=complete["classes"],
        sample_ids=grid["sample_id"][0].astype(str),
        groups=grid["group"][0].astype(str),
        labels=grid["label"][0].astype(np.int64),
        scores=flat[shaped].reshape(cells, samples, -1),
        truth={name: grid[name].astype(np.float64) for name in TRUTH_COLUMNS},
        clip_keys=grid["clip_key"],
        fingerprint=complete["fingerprint"],
        cost=complete["cost"],
        ceiling=read_json(folder / "ceiling.json") if (folder / "ceiling.json").is_file() else {},
    )


def _as_grid(table: pd.DataFrame, condition_ids: list[str], where: Path) -> np.ndarray:
    """Row order condition-major, samples sorted; refuses anything but exactly one row per cell and
    sample."""
    place = pd.Categorical(table["condition"], categories=condition_ids)
    samples = table["sample_id"].nunique()
    whole = len(table) == samples * len(condition_ids)
    if not whole or (place.codes < 0).any() or table.duplicated(["condition", "sample_id"]).any():
        raise RecordError("predictions are not one row per sample and condition", where=where)
    return np.lexsort((table["sample_id"].to_numpy().astype(str), place.codes))
