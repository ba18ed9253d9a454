"""Promises of what judging leaves for the light side: it reads back as the scenes are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regatta.data.manifest import Manifest
from regatta.data.scenes.settings import CLASSES, SceneSettings
from regatta.evaluation.scene_truth import renders_again, write_scene_truth
from regatta.records.scenes import read_baselines, read_cameras, read_truth
from tests.evaluation.tiny_scenes import build_store, samples_of

SETTINGS = SceneSettings(per_class=12, cameras=3, frames=16, size=32, seed=4)
NAMES = {
    *("constant-velocity", "constant-acceleration", "last-position", "line-fit"),
    *("speed-only", "box-and-speed", "track-analytic", "shape-fit"),
}


@pytest.fixture(scope="module")
def store():
    return build_store(SETTINGS)


def split(store, classes=CLASSES) -> Manifest:
    """Every fourth scene of each class is a test scene."""
    samples = [
        replace(
            sample,
            split="test" if row % 16 < 4 else "train",
            label=list(classes).index(sample.label_name),
        )
        for row, sample in enumerate(samples_of(store))
    ]
    return Manifest(samples, list(classes))


def test_the_truth_of_the_test_scenes_is_that_of_their_tracks(store, tmp_path):
    write_scene_truth(tmp_path, store, split(store))
    truth = read_truth(tmp_path)
    assert truth is not None
    rows = [row for row in range(48) if row % 16 < 4]
    assert truth.sample_ids.tolist() == [store.ids[row] for row in rows]
    track = store.positions[rows]
    assert np.allclose(truth.last_N3, track[:, 15])
    assert np.allclose(truth.velocity_N3, track[:, 15] - track[:, 14])
    assert np.allclose(truth.target_N3, track[:, 20])
    assert np.allclose(truth.forecast_N3, track[:, 15] + 5 * (track[:, 15] - track[:, 14]))
    assert truth.visible_views_N.tolist() == [3] * 12
    # Of a straight track constant velocity is exact.
    lines = [n for n, row in enumerate(rows) if store.labels[row] == 0]
    assert np.allclose(truth.forecast_N3[lines], truth.target_N3[lines])


def test_baselines_say_labels_of_the_data_whatever_their_order(store, tmp_path):
    classes = ("parabolic", "helical", "circular", "linear")
    for folder, names in (("a", CLASSES), ("b", classes)):
        manifest = split(store, names)
        write_scene_truth(tmp_path / folder, store, manifest)
        test = manifest.split("test")
        found = read_baselines(tmp_path / folder, np.array([s.sample_id for s in test]))
        assert {(b.name, b.track) for b in found} == {
            *((name, track) for name in NAMES for track in ("oracle", "pixels")),
            ("majority", ""),
        }
        true = [s.label for s in test]
        for baseline in found:
            if (baseline.name, baseline.track) in (
                ("track-analytic", "oracle"),
                ("track-analytic", "pixels"),
                ("shape-fit", "oracle"),
            ):
                assert baseline.labels_N.tolist() == true
        shape = next(b for b in found if (b.name, b.track) == ("shape-fit", "oracle"))
        rows = [store.ids.index(s.sample_id) for s in test]
        assert np.abs(shape.positions_N3 - store.positions[rows, 20]).max() < 1e-4


def test_cameras_project_as_those_that_saw_the_scenes(store, tmp_path):
    write_scene_truth(tmp_path, store, split(store))
    cameras = read_cameras(tmp_path)
    assert cameras is not None
    for view in range(3):
        pixels = cameras.project(store.positions[:, :16], view)
        assert np.nanmax(np.abs(pixels - store.pixels[:, view])) < 0.3


def test_one_camera_measures_no_track_and_unknown_places_no_oracle(store, tmp_path):
    single = build_store(replace(SETTINGS, cameras=1))
    write_scene_truth(tmp_path / "one", single, split(single))
    ids = np.array([s.sample_id for s in split(store).split("test")])
    assert {b.track for b in read_baselines(tmp_path / "one", ids)} == {"oracle", ""}
    unknown = replace(store, positions=np.full_like(store.positions, np.nan))
    write_scene_truth(tmp_path / "unknown", unknown, split(store))
    assert {b.track for b in read_baselines(tmp_path / "unknown", ids)} == {"pixels", ""}
    truth = read_truth(tmp_path / "unknown")
    assert truth is not None
    assert np.isnan(truth.target_N3).all()


def test_writing_again_gives_the_same_bytes(store, tmp_path):
    written = []
    for _ in range(2):
        write_scene_truth(tmp_path, store, split(store))
        written.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert set(written[0]) == {"truth.parquet", "baselines.parquet", "cameras.json"}
    assert written[0] == written[1]


def test_pictures_can_be_made_again_only_where_they_come_out_the_same(store):
    rows = np.arange(48)
    assert renders_again(store, rows)
    assert store.pictures is not None
    # Lossy video is near enough; another scene, and a track that is not known, are not.
    noise = np.random.default_rng(0).integers(-3, 4, store.pictures.shape)
    lossy = np.clip(store.pictures + noise, 0, 255).astype(np.uint8)
    assert renders_again(replace(store, pictures=lossy), rows)
    assert not renders_again(replace(store, pictures=store.pictures[::-1].copy()), rows)
    dark = store.pictures // 2
    assert not renders_again(replace(store, pictures=dark), rows)
    gap = store.positions.copy()
    gap[40, 3] = np.nan
    assert not renders_again(replace(store, positions=gap), rows)
    assert renders_again(replace(store, positions=gap), rows[:40])
