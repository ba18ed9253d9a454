"""What is known of the judged scenes, for the light side: truths, baselines, cameras.

scenes/
  truth.parquet      where each test scene truly is, and where constant velocity would put it
  baselines.parquet  what each baseline says of each test scene
  cameras.json       positions, rotations, focal length and centre
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from regatta.core.files import atomic_path, write_json
from regatta.data.manifest import Manifest, Sample
from regatta.data.scene_store import SceneStore
from regatta.data.scenes.cameras import triangulate
from regatta.data.scenes.detect import find_discs
from regatta.data.scenes.render import render_scenes
from regatta.data.scenes.settings import FORECAST_FRAMES
from regatta.evaluation.track_baselines import (
    Guess,
    baseline_rows,
    constant_velocity,
    majority,
    track_guesses,
)
from regatta.evaluation.track_shape import FORMS

NEAR_PIXELS, NEAR_GREY = 0.5, 8.0
"""How far pictures made again may be from the stored ones, as lossy video is: where the object is
found (the middle distance), and grey levels on average."""


class SceneFacts(NamedTuple):
    """Scenes of a split as baselines see them. forms_N: places in FORMS, -1 of another class.
    pixels_NVT2: (x, y) where the object was found, NaN where not."""

    ids: list[str]
    labels_N: np.ndarray
    forms_N: np.ndarray
    positions_NF3: np.ndarray
    pixels_NVT2: np.ndarray


def scene_facts(store: SceneStore, samples: Sequence[Sample]) -> SceneFacts:
    """Of these samples, in their order."""
    rows = store.rows(samples)
    forms = [FORMS.index(s.label_name) if s.label_name in FORMS else -1 for s in samples]
    return SceneFacts(
        [sample.sample_id for sample in samples],
        np.array([sample.label for sample in samples], dtype=int),
        np.array(forms, dtype=int),
        store.positions[rows],
        store.pixels[rows],
    )


def write_scene_truth(folder: Path, store: SceneStore, manifest: Manifest) -> None:
    """Write the three files into `folder`, each whole or not at all.

    Baselines on true tracks need them to be known, and those on pixels two cameras; without, their
    rows are absent.
    """
    test = scene_facts(store, manifest.split("test"))
    train = scene_facts(store, manifest.split("train"))
    write_json(folder / "cameras.json", store.cameras.facts())
    _write_rows(folder / "truth.parquet", truth_rows(test, frames=store.settings.frames))
    rows = all_baseline_rows(store, train, test, classes=manifest.classes)
    _write_rows(folder / "baselines.parquet", rows)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows)), temporary, compression="zstd")


def truth_rows(facts: SceneFacts, *, frames: int) -> list[dict[str, Any]]:
    """Rows of truth.parquet: place and step at the last shown frame, the forecast target, where
    constant velocity puts it, and in how many cameras the object was found in the last frame."""
    last_N3 = facts.positions_NF3[:, frames - 1]
    columns = {
        "last": last_N3,
        "velocity": last_N3 - facts.positions_NF3[:, frames - 2],
        "target": facts.positions_NF3[:, frames - 1 + FORECAST_FRAMES],
        "cv": constant_velocity(facts.positions_NF3[:, :frames], ahead=FORECAST_FRAMES),
    }
    seen_N = np.isfinite(facts.pixels_NVT2[:, :, -1]).all(axis=-1).sum(axis=1)
    return [
        {
            "sample_id": sample_id,
            "label": int(facts.labels_N[row]),
            **{
                f"{name}_{axis}": float(places_N3[row, number])
                for name, places_N3 in columns.items()
                for number, axis in enumerate("xyz")
            },
            "visible_views": int(seen_N[row]),
        }
        for row, sample_id in enumerate(facts.ids)
    ]


def all_baseline_rows(
    store: SceneStore, train: SceneFacts, test: SceneFacts, *, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of baselines.parquet: those of true tracks, of tracks from pixels, and the majority."""
    frames = store.settings.frames
    labels = [list(classes).index(name) if name in classes else -1 for name in FORMS]
    known = train.forms_N >= 0
    rows = []
    for track in ("oracle", "pixels"):
        tracks = [_tracks(store, facts, frames, track) for facts in (train, test)]
        if not np.isfinite(tracks[1]).any():
            continue
        guesses = track_guesses(
            tracks[0][known], train.forms_N[known], tracks[1], ahead=FORECAST_FRAMES
        )
        rows += baseline_rows(guesses, test.ids, track=track, labels=labels)
    commonest: dict[str, Guess] = {"majority": majority(train.labels_N, len(test.ids))}
    return rows + baseline_rows(commonest, test.ids, track="", labels=range(len(classes)))


def _tracks(store: SceneStore, facts: SceneFacts, frames: int, track: str) -> np.ndarray:
    if track == "oracle":
        return facts.positions_NF3[:, :frames]
    return triangulate(store.cameras, np.moveaxis(facts.pixels_NVT2, 1, 0))[0]


def renders_again(store: SceneStore, rows: np.ndarray, *, looked_at: int = 4) -> bool:
    """Whether the pictures of these scenes can be made again from known tracks.

    Tracks of all must be known, and the first few, made again, look as the stored ones do.
    """
    if not len(rows) or not np.isfinite(store.positions[rows, : store.settings.frames]).all():
        return False
    first = rows[:looked_at]
    made = render_scenes(
        store.positions[first, : store.settings.frames],
        store.cameras,
        store.settings,
        indices=store.indices[first],
        views=store.views,
    )
    stored = store.frames(first, store.views).numpy()
    grey = np.abs(made.astype(np.int16) - stored).mean()
    away = np.linalg.norm(find_discs(made) - find_discs(stored), axis=-1)
    seen = np.isfinite(away)
    return bool(seen.any() and np.median(away[seen]) <= NEAR_PIXELS and grey <= NEAR_GREY)
