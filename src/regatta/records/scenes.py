"""What judging of scenes leaves beside its predictions: truths, baselines, cameras, explanations
and attention maps. All of it is read without torch; what was not written is None.

runs/<study>/scenes/
  truth.parquet  baselines.parquet  cameras.json  tracks.safetensors  scenes.json
runs/<study>/runs/<run-id>/predictions/<protocol-id>/
  explanations.jsonl  attention.safetensors  attention.json

Places are in world units (u), a right-handed world with z up.
Shapes: N samples, T frames, V cameras, S picture side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file

from regatta.core.errors import RecordError
from regatta.core.files import read_json, read_json_lines

HINT = "delete it and run the study again: only the judging is redone"
AXES = "xyz"
UNREADABLE = (OSError, KeyError, ValueError, TypeError, pa.ArrowException, SafetensorError)


@dataclass(frozen=True)
class SceneTruth:
    """The judged scenes as they are; all places [N, 3] in u, NaN where not known.

    velocity_N3 is per frame, from the last two shown; forecast_N3 is where constant velocity puts
    the object at the target frame.
    """

    sample_ids: np.ndarray
    last_N3: np.ndarray
    velocity_N3: np.ndarray
    target_N3: np.ndarray
    forecast_N3: np.ndarray
    visible_views_N: np.ndarray

    def at(self, sample_ids: np.ndarray) -> SceneTruth:
        """The same in the order of `sample_ids`; RecordError where one is not there."""
        rows = rows_at(self.sample_ids, sample_ids, what="truth of the judged scenes")
        return replace(
            self,
            sample_ids=sample_ids,
            last_N3=self.last_N3[rows],
            velocity_N3=self.velocity_N3[rows],
            target_N3=self.target_N3[rows],
            forecast_N3=self.forecast_N3[rows],
            visible_views_N=self.visible_views_N[rows],
        )


def rows_at(known: np.ndarray, wanted: np.ndarray, *, what: str) -> np.ndarray:
    """Row of each of `wanted` among `known` ids, int [N]; RecordError where one is absent."""
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known[order], wanted).clip(max=max(len(known) - 1, 0))
    missing = known[order][places] != wanted if len(known) else np.ones(len(wanted), dtype=bool)
    if missing.any():
        first = str(wanted[int(missing.argmax())])
        raise RecordError(
            f"the {what} lacks {int(missing.sum())} samples", where=f"sample {first!r}", hint=HINT
        )
    return order[places]


def read_truth(folder: Path) -> SceneTruth | None:
    """`truth.parquet` of a scenes folder; None where it was not written.

    Raises:
        RecordError: the file is damaged or lacks a column.
    """
    table = _table(folder / "truth.parquet")
    if table is None:
        return None
    try:
        return SceneTruth(
            sample_ids=table["sample_id"].to_numpy().astype(str),
            last_N3=_places(table, "last_"),
            velocity_N3=_places(table, "velocity_"),
            target_N3=_places(table, "target_"),
            forecast_N3=_places(table, "cv_"),
            visible_views_N=table["visible_views"].to_numpy(),
        )
    except UNREADABLE as error:
        raise _damaged(folder / "truth.parquet", error) from error


@dataclass(frozen=True)
class SceneBaseline:
    """What one entry without learning answers; `track` is what it looked at, "oracle" or "pixels".

    labels_N: -1 where it says nothing of the class. positions_N3 in u: NaN where it says nothing of
    the place.
    """

    name: str
    track: str
    labels_N: np.ndarray
    positions_N3: np.ndarray

    @property
    def label(self) -> str:
        return f"{self.name} ({self.track})" if self.track else self.name


def read_baselines(folder: Path, sample_ids: np.ndarray) -> list[SceneBaseline]:
    """`baselines.parquet`, each in the order of `sample_ids`; empty where it was not written.

    Raises:
        RecordError: the file is damaged, or a baseline was not judged on all samples.
    """
    path = folder / "baselines.parquet"
    table = _table(path)
    if table is None:
        return []
    try:
        found = []
        table["track"] = table["track"].fillna("")
        for _, rows in table.groupby(["baseline", "track"], sort=False):
            name, track = rows["baseline"].iloc[0], rows["track"].iloc[0]
            ids = rows["sample_id"].to_numpy().astype(str)
            at = rows_at(ids, sample_ids, what=f"baseline {name}")
            labels = rows["label"].to_numpy()[at].astype(np.int64)
            found.append(SceneBaseline(str(name), str(track), labels, _places(rows, "")[at]))
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    return found


@dataclass(frozen=True)
class SceneCameras:
    """positions [V, 3]; rotations [V, 3, 3] with rows X right, Y down, Z forward; focal length and
    principal point in pixels."""

    positions: np.ndarray
    rotations: np.ndarray
    focal: float
    centre: np.ndarray

    def project(self, points: np.ndarray, camera: int = 0) -> np.ndarray:
        """Pixels (x, y) [..., 2] of world points [..., 3] in one camera: f X / Z + c."""
        seen = (points - self.positions[camera]) @ self.rotations[camera].T
        return self.focal * seen[..., :2] / seen[..., 2:] + self.centre


def read_cameras(folder: Path) -> SceneCameras | None:
    """`cameras.json`; None where it was not written. RecordError when it is damaged."""
    path = folder / "cameras.json"
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        return SceneCameras(
            np.asarray(record["positions"], dtype=float).reshape(-1, 3),
            np.asarray(record["rotations"], dtype=float).reshape(-1, 3, 3),
            float(record["focal"]),
            np.broadcast_to(np.asarray(record["centre"], dtype=float), (2,)),
        )
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def read_tracks(folder: Path, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """True tracks [T + 5, 3] of some samples, in u; those that were not kept are absent.

    Raises:
        RecordError: a file is damaged.
    """
    path, listing = folder / "tracks.safetensors", folder / "scenes.json"
    if not path.is_file() or not listing.is_file():
        return {}
    ids = read_json(listing).get("ids", [])
    try:
        positions = load_file(path)["positions"]
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    places = {str(name): row for row, name in enumerate(ids)}
    wanted = [name for name in sample_ids if name in places and places[name] < len(positions)]
    return {name: positions[places[name]].astype(float) for name in wanted}


@dataclass(frozen=True)
class Explanation:
    """One sample in words; `source` is "template" or the name of what worded it."""

    sample: str
    text: str
    source: str
    accepted: bool
    fields: Mapping[str, Any]


def read_explanations(predictions: Path) -> list[Explanation]:
    """Those of one run, in the order written; empty where none were asked for."""
    path = predictions / "explanations.jsonl"
    if not path.is_file():
        return []
    try:
        return [
            Explanation(
                str(record["sample"]),
                str(record["text"]),
                str(record.get("source", "template")),
                bool(record.get("accepted", True)),
                dict(record.get("fields") or {}),
            )
            for record in read_json_lines(path)
        ]
    except UNREADABLE as error:
        raise _damaged(path, error) from error


@dataclass(frozen=True)
class AttentionMaps:
    """What one run looked at in a few samples.

    frames uint8 [n, T, 3, S, S]; maps float32 [n, T, S, S]; samples, labels and predicted [n].
    """

    frames: np.ndarray
    maps: np.ndarray
    samples: list[str]
    labels: list[Any]
    predicted: list[Any]
    method: str
    faithfulness: Mapping[str, Any]


def read_attention(predictions: Path) -> AttentionMaps | None:
    """Maps of one run; None where none were asked for. RecordError when a file is damaged."""
    path, listing = predictions / "attention.safetensors", predictions / "attention.json"
    if not path.is_file() or not listing.is_file():
        return None
    record = read_json(listing)
    try:
        tensors = load_file(path)
        found = AttentionMaps(
            tensors["frames"],
            tensors["maps"],
            [str(name) for name in record["samples"]],
            list(record["labels"]),
            list(record["predicted"]),
            str(record["method"]),
            dict(record.get("faithfulness") or {}),
        )
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    n, frames, _, height, width = found.frames.shape
    if found.maps.shape != (n, frames, height, width) or len(found.samples) != n:
        raise RecordError("attention maps do not fit their frames", where=path, hint=HINT)
    return found


def _table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path)
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _places(table: pd.DataFrame, prefix: str) -> np.ndarray:
    return table[[f"{prefix}{axis}" for axis in AXES]].to_numpy(dtype=float)


def _damaged(path: Path, error: Exception) -> RecordError:
    return RecordError(f"a record of scenes is damaged: {error}", where=path, hint=HINT)
