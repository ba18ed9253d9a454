"""What judging leaves of scenes is read back whole, in the wanted order, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regatta.core.errors import RecordError
from regatta.core.files import write_json
from regatta.records.scenes import (
    read_attention,
    read_baselines,
    read_cameras,
    read_explanations,
    read_tracks,
    read_truth,
)
from tests.analysis.scene_build import (
    Scenes,
    drawn_scenes,
    write_attention,
    write_explanations,
    write_scenes,
)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return drawn_scenes(12)


@pytest.fixture
def folder(tmp_path: Path, scenes: Scenes) -> Path:
    none = np.full((12, 3), np.nan)
    baselines = [
        ("last-position", "pixels", np.full(12, -1), scenes.last),
        ("majority", "", np.zeros(12, dtype=int), none),
    ]
    write_scenes(tmp_path / "scenes", scenes, baselines)
    return tmp_path / "scenes"


def test_truth_comes_in_the_order_asked_for(folder: Path, scenes: Scenes) -> None:
    truth = read_truth(folder)
    assert truth is not None
    found = truth.at(np.array(scenes.ids))
    assert np.allclose(found.target_N3, scenes.targets)
    assert np.allclose(found.forecast_N3, scenes.last + 5 * scenes.velocity)
    part = truth.at(np.array([scenes.ids[7], scenes.ids[2]]))
    assert np.allclose(part.last_N3, scenes.last[[7, 2]])


def test_sample_without_a_truth_is_named(folder: Path) -> None:
    truth = read_truth(folder)
    assert truth is not None
    with pytest.raises(RecordError, match="lacks 1 samples") as error:
        truth.at(np.array(["traj_00003", "traj_99999"]))
    assert "traj_99999" in str(error.value)


def test_baselines_come_with_their_track_and_with_nothing_made_up(
    folder: Path, scenes: Scenes
) -> None:
    last, majority = read_baselines(folder, np.array(scenes.ids))
    assert (last.label, majority.label) == ("last-position (pixels)", "majority")
    assert np.allclose(last.positions_N3, scenes.last)
    assert (last.labels_N == -1).all()
    assert np.isnan(majority.positions_N3).all()


def test_point_at_the_origin_lies_at_the_principal_point(folder: Path) -> None:
    cameras = read_cameras(folder)
    assert cameras is not None
    for number in range(4):
        assert np.allclose(cameras.project(np.zeros(3), number), [31.5, 31.5])
    # One unit up, seen from (5, 0, 2): X = 0, depth |(5, 2)| - 2 / |(5, 2)|, height 5 / |(5, 2)|.
    depth, height = 29**0.5 - 2 / 29**0.5, 5 / 29**0.5
    found = cameras.project(np.array([0, 0, 1.0]))
    assert found.tolist() == pytest.approx([31.5, 31.5 - 80 * height / depth])


def test_tracks_are_found_by_sample(folder: Path, scenes: Scenes) -> None:
    found = read_tracks(folder, [scenes.ids[4], "unknown"])
    assert list(found) == [scenes.ids[4]]
    assert np.array_equal(found[scenes.ids[4]], scenes.tracks[4])


def test_what_was_not_written_is_absent(tmp_path: Path) -> None:
    assert read_truth(tmp_path) is None
    assert read_cameras(tmp_path) is None
    assert read_attention(tmp_path) is None
    assert read_baselines(tmp_path, np.array(["a"])) == []
    assert read_explanations(tmp_path) == []
    assert read_tracks(tmp_path, ["a"]) == {}


def read_all(folder: Path, scenes: Scenes) -> None:
    read_truth(folder)
    read_baselines(folder, np.array(scenes.ids))
    read_tracks(folder, scenes.ids)


@pytest.mark.parametrize("name", ["truth.parquet", "baselines.parquet", "tracks.safetensors"])
def test_damaged_file_is_refused_with_its_place(folder: Path, scenes: Scenes, name: str) -> None:
    (folder / name).write_bytes(b"cut")
    with pytest.raises(RecordError, match="damaged") as error:
        read_all(folder, scenes)
    assert name in str(error.value)


def test_cameras_without_rotations_are_refused(folder: Path) -> None:
    write_json(folder / "cameras.json", {"positions": [[5, 0, 2]]})
    with pytest.raises(RecordError, match="damaged"):
        read_cameras(folder)


def test_explanations_keep_order_source_and_whether_they_were_accepted(tmp_path: Path) -> None:
    records = [
        {"sample": "a", "fields": {"radius": 0.5}, "text": "circular", "source": "template",
         "accepted": True},
        {"sample": "b", "fields": {}, "text": "helical", "source": "some-model", "accepted": False},
    ]  # fmt: skip
    write_explanations(tmp_path, records)
    first, second = read_explanations(tmp_path)
    assert (first.sample, first.fields["radius"]) == ("a", 0.5)
    assert (second.source, second.accepted) == ("some-model", False)


RECORD = {"samples": ["a"], "labels": [0], "predicted": [2], "method": "gradient",
          "faithfulness": {"ratio": 4.0}}  # fmt: skip


def test_attention_comes_with_method_and_faithfulness(tmp_path: Path) -> None:
    frames = np.zeros((1, 4, 3, 8, 8), dtype=np.uint8)
    write_attention(tmp_path, frames, np.ones((1, 4, 8, 8), dtype=np.float32), RECORD)
    found = read_attention(tmp_path)
    assert found is not None
    assert (found.method, found.faithfulness["ratio"]) == ("gradient", 4.0)
    assert found.frames.shape == (1, 4, 3, 8, 8)


def test_maps_of_another_size_than_their_frames_are_refused(tmp_path: Path) -> None:
    frames = np.zeros((1, 4, 3, 8, 8), dtype=np.uint8)
    write_attention(tmp_path, frames, np.ones((1, 4, 4, 4), dtype=np.float32), RECORD)
    with pytest.raises(RecordError, match="do not fit"):
        read_attention(tmp_path)
