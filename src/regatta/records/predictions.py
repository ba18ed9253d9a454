"""The prediction store: one row per run, sample and condition, in small parquet parts.

A part holds *all* conditions of its samples, as one decode of a sample serves them all; it is
the unit that an interrupted judging resumes at. `complete.json`, written last, lists every part
with its hash.

Columns of a part (see `part_schema`): sample_id, group, condition, label, scores (float32 logits,
one per class; of a condition with several views the logarithm of their mean probabilities, or their
mean logits), distinct_frames, span_seconds, rate_hz (over the union of all views), pad_share (their
mean), clip_key (equal keys = the model saw the identical clips). The last five are null where they
are not known, as in predictions that were imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from regatta.config.expand import expand_study, protocol_id
from regatta.core.errors import RecordError
from regatta.core.files import atomic_path, read_json, read_json_object, slug, write_json
from regatta.records.conditions import Condition
from regatta.records.run_folder import StudyFolder

UNKNOWN_FOLDER = "unknown"
"""Below a run's predictions: those on samples of classes that the study keeps from its models, as
recorded, with the label -1."""
HEADS_FOLDER = "heads"
"""Below a run's predictions: those of its further heads, each in a folder of its name."""
OOD_FOLDER = "ood"
"""Below a run's predictions: those on sets of images from elsewhere, each in a folder."""
POSITION_COLUMNS = ("pred_x", "pred_y", "pred_z", "target_x", "target_y", "target_z")
HORIZON_COLUMN = "horizon_frames"
TRUTH_COLUMNS = ("distinct_frames", "span_seconds", "rate_hz", "pad_share")


def part_schema(classes: int, *, has_positions: bool = False) -> pa.Schema:
    """Arrow schema of a part for `classes` classes."""
    places = [(name, pa.float32()) for name in POSITION_COLUMNS]
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
            *([*places, (HORIZON_COLUMN, pa.int32())] if has_positions else []),
        ]
    )


def part_path(folder: Path, number: int) -> Path:
    """File of part `number` in a predictions folder."""
    return folder / f"part-{number:05d}.parquet"


def write_part(folder: Path, number: int, columns: dict[str, Any], scores: np.ndarray) -> Path:
    """Write part `number` atomically.

    Args:
        folder: `RunFolder.predictions(protocol_id)`.
        columns: every column of the schema except scores, each of length N; with those of places
            where the model says one.
        scores: float32 [N, K].
    """
    path = part_path(folder, number)
    flat = pa.array(np.ascontiguousarray(scores, dtype=np.float32).reshape(-1))
    arrays = {**columns, "scores": pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])}
    schema = part_schema(scores.shape[1], has_positions=HORIZON_COLUMN in columns)
    table = pa.table({name: arrays[name] for name in schema.names}, schema=schema)
    # A dictionary of scores, which hardly ever repeat, makes a part half as large again and its
    # writing four times as slow.
    repeating = [name for name in schema.names if name != "scores"]
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=repeating)  # pyright: ignore[reportArgumentType]
    return path


def read_part(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """One part as (columns without scores, float32 scores [N, K]); RecordError when it is
    damaged."""
    try:
        columns, scores = _unpack(path.read_bytes())
        return columns.to_pandas(), scores
    except UNREADABLE as error:
        raise _damaged(path, error) from error


UNREADABLE = (OSError, KeyError, ValueError, AttributeError, pa.ArrowException)


def _unpack(content: bytes) -> tuple[pa.Table, np.ndarray]:
    """The bytes of a part as (columns without scores, float32 scores [N, K])."""
    # Not pq.read_table: finding out about a data set of one small file takes as long as reading it.
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    table.validate(full=True)
    classes = table.schema.field("scores").type.list_size
    flat = table.column("scores").combine_chunks().flatten()
    scores = np.asarray(flat, dtype=np.float32).reshape(table.num_rows, classes)
    return table.drop_columns(["scores"]), scores


def _damaged(path: Path, error: Exception) -> RecordError:
    return RecordError(
        f"prediction file is damaged: {error}",
        where=path,
        hint="delete it and run the study again",
    )


def file_hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def prediction_hashes(folder: StudyFolder) -> dict[str, str]:
    """Run -> what its predictions hash to, of all runs that are judged under the study's protocol;
    and of the motion that was measured."""
    study = folder.study()
    protocol = protocol_id(study.protocol)
    judged = {
        spec.run_id: folder.run(spec.run_id).predictions(protocol) / "complete.json"
        for spec in expand_study(study)
    }
    files = {**judged, "motion": folder.motion_json}
    return {name: file_hash(path) for name, path in files.items() if path.is_file()}


def write_complete(
    folder: Path,
    *,
    conditions: list[Condition],
    classes: list[str],
    sample_ids: list[str],
    fingerprint: dict[str, Any],
    cost: dict[str, Any],
    first: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Mark a run's predictions as whole: every part on disk listed with its hash. Written last.

    Args:
        first: what else belongs to a judged run; given the record before it is written, for
            `read_run_predictions`.
    """
    parts = {path.name: file_hash(path) for path in sorted(folder.glob("part-*.parquet"))}
    record = complete_record(
        parts,
        conditions=conditions,
        classes=classes,
        sample_ids=sample_ids,
        fingerprint=fingerprint,
        cost=cost,
    )
    if first is not None:
        first(record)
    write_json(folder / "complete.json", record)


def complete_record(
    parts: dict[str, str],
    *,
    conditions: Sequence[Condition],
    classes: Sequence[str],
    sample_ids: Sequence[str],
    fingerprint: dict[str, Any],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """What `complete.json` holds; `parts` maps the files to their hashes."""
    return {
        "parts": parts,
        "conditions": [
            {"id": c.id, "axes": c.axes, "is_reference": c.is_reference} for c in conditions
        ],
        "classes": list(classes),
        "samples": len(sample_ids),
        "sample_ids_hash": sha256("\n".join(sorted(sample_ids)).encode()).hexdigest(),
        "fingerprint": fingerprint,
        "cost": cost,
    }


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
    origin: dict[str, Any] = field(default_factory=dict)
    """What an import recorded of its file; empty for predictions that were made here."""
    positions: np.ndarray | None = None
    """float32 [C, N, 3] in world units, of a model that says a place; None of any other."""
    targets: np.ndarray | None = None
    """float32 [N, 3], the true places; NaN where not known."""
    horizon_frames: int | None = None
    """Frames from the last shown one to the target; 0 = the place in the last frame."""

    def correct(self) -> np.ndarray:
        """bool [C, N]; the first of equal highest scores wins."""
        return self.scores.argmax(axis=2) == self.labels[None, :]


def read_run_predictions(
    folder: Path, *, run_id: str, entry: str, seed: int, record: dict[str, Any] | None = None
) -> RunPredictions:
    """Load and verify one run's predictions.

    Args:
        record: that is about to be written; None = that of `complete.json`.
    Raises:
        RecordError: not complete, a part is missing or changed, or samples and conditions do not
        form a full grid.
    """
    if record is None and not (folder / "complete.json").is_file():
        raise RecordError(
            "this run is not judged yet",
            where=folder,
            hint="finish it with: regatta run <study file>",
        )
    complete = read_complete(folder) if record is None else _checked(record, folder)
    if complete.get("unit", "sample") != "sample":
        raise RecordError(
            "of this run it is only known how many samples of each class were right", where=folder
        )
    conditions: list[Condition] = complete["conditions"]
    parts = _read_parts(folder, complete["parts"])
    columns = pa.concat_tables([part for part, _ in parts])
    ids, places = _grid_places(columns, [c.id for c in conditions], folder)
    shape = (len(conditions), len(ids))
    row_at = np.argsort(places)
    first = columns.take(row_at[: len(ids)])
    _check_labels(first["label"].to_numpy(), parts[0][1].shape[1], complete["classes"], folder)
    return RunPredictions(
        run_id=run_id,
        entry=entry,
        seed=seed,
        conditions=conditions,
        classes=complete["classes"],
        sample_ids=ids,
        groups=first["group"].to_numpy().astype(str),
        labels=first["label"].to_numpy().astype(np.int64),
        scores=_in_places([scores for _, scores in parts], places, folder).reshape(*shape, -1),
        truth={
            name: columns[name].to_numpy().astype(np.float64)[row_at].reshape(shape)
            for name in TRUTH_COLUMNS
        },
        clip_keys=_objects(columns["clip_key"])[row_at].reshape(shape),
        fingerprint=complete["fingerprint"],
        cost=complete["cost"],
        ceiling=complete["ceiling"] if "ceiling" in complete else _ceiling(folder),
        origin=complete.get("import", {}),
        **_places(columns, row_at, shape),
    )


def read_complete(folder: Path) -> dict[str, Any]:
    """What `complete_record` made, its conditions as such; RecordError for anything else."""
    path = folder / "complete.json"
    return _checked(read_json_object(path), path)


def _checked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    try:
        conditions = [
            Condition(_of(str, c["id"]), _of(dict, c["axes"]), _of(bool, c["is_reference"]))
            for c in _of(list, content["conditions"])
        ]
        if len({c.id for c in conditions}) < max(1, len(conditions)):
            raise ValueError("no conditions, or two of one name")
        classes = [_of(str, name) for name in _of(list, content["classes"])]
        if len(set(classes)) < max(1, len(classes)):
            raise ValueError("no classes, or two of one name")
        parts = _of(dict, content["parts"])
        for name, digest in parts.items():
            # A record that came from elsewhere must not name files of another folder.
            if not name or name != slug(name) or not isinstance(digest, str):
                raise ValueError(f"no name of a part: {name!r:.80}")
        for key in ("fingerprint", "cost"):
            _of(dict, content[key])
        for key in ("ceiling", "import"):
            _of(dict, content.get(key, {}))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise RecordError(
            f"the list of predictions is damaged: {problem}",
            where=path,
            hint="delete it and run the study again: only the judging is redone",
        ) from error
    return {**content, "conditions": conditions}


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _check_labels(labels: np.ndarray, scored: int, classes: list[str], where: Path) -> None:
    if scored != len(classes):
        raise RecordError(f"scores are of {scored} classes, not of {len(classes)}", where=where)
    if labels.dtype.kind not in "iu" or (labels < -1).any() or (labels >= scored).any():
        raise RecordError("predictions have labels that are no class", where=where)


def _places(columns: pa.Table, row_at: np.ndarray, shape: tuple[int, int]) -> dict[str, Any]:
    """`positions`, `targets` and `horizon_frames` of a grid; nothing where the parts have none."""
    if HORIZON_COLUMN not in columns.column_names:
        return {}
    found = np.stack([columns[name].to_numpy() for name in POSITION_COLUMNS], axis=1)
    found = found.astype(np.float32)[row_at].reshape(*shape, 6)
    horizon = int(columns[HORIZON_COLUMN][0].as_py())
    return {"positions": found[..., :3], "targets": found[0, :, 3:], "horizon_frames": horizon}


def _ceiling(folder: Path) -> dict[str, float]:
    path = folder / "ceiling.json"
    return read_json(path) if path.is_file() else {}


def _read_parts(folder: Path, digests: dict[str, str]) -> list[tuple[pa.Table, np.ndarray]]:
    """Columns and scores of every part in order. Each file is read once, for its hash and its rows;
    both are work outside the interpreter's lock, so threads share it."""

    def read(name: str, digest: str) -> tuple[pa.Table, np.ndarray]:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        if sha256(content).hexdigest() != digest:
            raise RecordError(
                "prediction file is missing or was changed",
                where=path,
                hint="delete it and complete.json, then run the study again: only it is redone",
            )
        try:
            return _unpack(content)
        except UNREADABLE as error:
            raise _damaged(path, error) from error

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, digests.keys(), digests.values()))


def _grid_places(
    columns: pa.Table, condition_ids: list[str], where: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids sorted [N], and each row's place in a flat table [C * N] of conditions by samples.

    Refuses anything but exactly one row per condition and sample.
    """
    names, sample = _coded(columns["sample_id"])
    names = names.astype(str)
    order = np.argsort(names, kind="stable")
    known, code = _coded(columns["condition"])
    number = {name: position for position, name in enumerate(condition_ids)}
    condition = np.array([*(number.get(name, -1) for name in known), -1])[code]
    cells = len(names) * len(condition_ids)
    # Numpy cuts zero characters off the end of a text, and two ids could become one.
    is_distinct = len(np.unique(names)) == len(names)
    if is_distinct and len(sample) == cells and (sample >= 0).all() and (condition >= 0).all():
        places = condition.astype(np.int64) * len(names) + np.argsort(order)[sample]
        if (np.bincount(places, minlength=cells) == 1).all():
            return names[order], places
    raise RecordError("predictions are not one row per sample and condition", where=where)


def _in_places(parts: list[np.ndarray], places: np.ndarray, where: Path) -> np.ndarray:
    """Scores [C * N, K] from those of the parts."""
    classes = parts[0].shape[1]
    if any(part.shape[1] != classes for part in parts):
        raise RecordError("parts have scores of different numbers of classes", where=where)
    scores = np.empty((len(places), classes), dtype=np.float32)
    ends = np.cumsum([len(part) for part in parts])
    for part, rows in zip(parts, np.split(places, ends[:-1]), strict=True):
        scores[rows] = part
    return scores


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Different texts in the order met, and for each row its place among them, -1 for none."""
    coded = column.combine_chunks().dictionary_encode()
    texts = coded.dictionary.to_numpy(zero_copy_only=False)
    return texts, coded.indices.fill_null(-1).to_numpy()


def _objects(column: pa.ChunkedArray) -> np.ndarray:
    """One object per different text, not per row; None where there is none."""
    texts, code = _coded(column)
    return np.array([*texts, None], dtype=object)[code]
