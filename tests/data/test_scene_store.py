"""Promises of stored and streamed scenes: same bytes, whole or refused, split by class."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, namedtuple
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regatta.config.schema import DataSection
from regatta.core.errors import (
    ConfigError,
    DataError,
    DiskError,
    RecordError,
    StopRequested,
    UnknownNameError,
)
from regatta.core.locks import alone
from regatta.data.decode import read_frames
from regatta.data.manifest import Manifest
from regatta.data.scene_store import SceneStore, build_scenes
from regatta.data.scenes.cameras import camera_ring, project
from regatta.data.scenes.scan import scan_scenes

SMALL = {"per_class": 5, "frames": 12, "size": 32}


def section(root: Path, *, seed: int = 7, **options: Any) -> DataSection:
    return DataSection(
        source="trajectories", root=str(root), split_seed=seed, options={**SMALL, **options}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder; tests that change it copy it."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    scan_scenes(section(root))
    return root


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"layout": "tiled", "cameras": 3}, {"ground": "noise", "size": 34, "distractors": 2}],
    ids=["views", "tiled", "noise"],
)
def test_files_and_stream_hold_the_same_pictures(tmp_path: Path, options: dict) -> None:
    """Lossless videos, read back by the project's decoder."""
    manifest, store = build_scenes(section(tmp_path / "data", **options), tmp_path / "scenes")
    streamed = section(tmp_path / "none", stream=True, **options)
    others, stream = build_scenes(streamed, tmp_path / "streamed")
    rows = store.rows(manifest.samples)
    views = list(range(options.get("cameras", 4)))
    size = options.get("size", 32)
    assert store.frames(rows, views).shape == (20, len(views), 12, 3, size, size)
    assert torch.equal(store.frames(rows, views), stream.frames(rows, views))
    assert torch.equal(store.frames(rows[3:5], [1]), stream.frames(rows, views)[3:5, 1:2])
    np.testing.assert_array_equal(store.pixels, stream.pixels)
    np.testing.assert_array_equal(store.positions, stream.positions)
    facts = [(s.sample_id, s.label, s.split) for s in manifest.samples]
    assert facts == [(s.sample_id, s.label, s.split) for s in others.samples]
    assert not (tmp_path / "none").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name == "streamed"] == []


def test_a_video_is_what_ordinary_tools_read(made: Path) -> None:
    names = sorted(path.name for path in (made / "videos").iterdir())
    assert len(names) == 80
    assert names[:2] == ["traj_00000_cam0.mkv", "traj_00000_cam1.mkv"]
    frames = read_frames(made / "videos" / names[0], range(12))
    assert frames.images.shape == (12, 32, 32, 3)
    np.testing.assert_allclose(np.diff(frames.timestamps_seconds), 1 / 16, atol=1e-3)


def test_a_label_tells_all_that_is_true_of_a_scene(made: Path) -> None:
    label = json.loads((made / "labels" / "traj_00003.json").read_text())
    assert set(label) == {
        *("class", "class_label", "num_frames", "resolution", "num_cameras", "positions"),
        *("camera_positions", "future_position", "future_frame", "velocity_last", "parameters"),
        *("pixels", "radius_px", "visible", "seed", "index", "rejected"),
    }
    shown = np.array(label["positions"])
    assert shown.shape == (12, 3)
    assert label["future_frame"] == 16
    assert label["resolution"] == [32, 32]
    np.testing.assert_allclose(label["velocity_last"], shown[-1] - shown[-2], atol=1e-15)
    pixels, depth = project(camera_ring(4, 32), shown)
    np.testing.assert_allclose(label["pixels"], pixels, atol=1e-6)
    np.testing.assert_allclose(label["radius_px"], 40 * 0.15 / depth, atol=1e-6)
    assert label["camera_positions"][1] == [0, 5, 2]
    assert np.array(label["visible"]).shape == (4, 12)
    manifest = Manifest.load(made / "manifest.parquet")
    assert manifest.samples[3].label_name == label["class"]
    assert manifest.samples[3].extra["index"] == label["index"]


def test_the_dataset_file_tells_settings_version_and_hashes(made: Path) -> None:
    facts = json.loads((made / "dataset.json").read_text())
    assert facts["samples"] == 20
    assert facts["lossless"] is True
    assert (facts["seed"], facts["split_seed"], facts["per_class"]) == (7, 7, 5)
    assert len(facts["hash_per_1000"]) == 1
    assert facts["regatta"]
    assert facts["version"] >= 1


def test_splits_hold_every_class_in_equal_shares(tmp_path: Path) -> None:
    manifest = scan_scenes(section(tmp_path, stream=True, per_class=50)).manifest
    counts = Counter((s.split, s.label_name) for s in manifest.samples)
    assert set(counts.values()) == {30, 10}
    assert len(counts) == 12
    assert [len(manifest.split(s)) for s in ("train", "validation", "test")] == [120, 40, 40]
    # The stored order says nothing of the class.
    labels = [sample.label for sample in manifest.samples]
    repeats = sum(a == b for a, b in pairwise(labels))
    assert 25 < repeats < 75


def test_the_split_seed_moves_splits_and_not_scenes(made: Path) -> None:
    first = scan_scenes(section(made)).manifest
    other = scan_scenes(section(made, seed=8, generator_seed=7)).manifest
    assert [s.content_hash for s in first.samples] == [s.content_hash for s in other.samples]
    assert [s.split for s in first.samples] != [s.split for s in other.samples]
    assert any("seed 8" in note for note in other.notes)


def test_making_again_changes_nothing(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    scan_scenes(section(made))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    scan_scenes(section(tmp_path / "again"))
    assert bytes_of(tmp_path / "again") == bytes_of(made)


MANY = {"per_class": 60, "frames": 12, "size": 16, "cameras": 2}
"""Enough scenes for a second process."""
MAKE = f"""
import sys
from regatta.config.schema import DataSection
from regatta.data.scenes.scan import scan_scenes
scan_scenes(DataSection(source="trajectories", root=sys.argv[1], split_seed=7, options={MANY}))
"""


def test_a_killed_generation_continues_to_the_same_bytes(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = subprocess.Popen([sys.executable, "-c", MAKE, str(killed)])
    while len(list(killed.glob("labels/traj_*.json"))) < 10:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.05)
        assert child.returncode is None, "it ended before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "dataset.json").exists()
    done = bytes_of(killed)
    scan_scenes(section(killed, **MANY))
    scan_scenes(section(whole, **MANY))
    found = bytes_of(killed)
    assert found == bytes_of(whole)
    assert len(found) == 240 * 3 + 4
    kept = [name for name in done if name.startswith("labels/traj_")]
    assert all(found[name] == done[name] for name in kept)


def test_making_says_how_far_it_is_and_stops_when_asked(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    told: list[tuple[int, int]] = []
    with pytest.raises(StopRequested, match="stopped while scenes were made"):
        scan_scenes(
            section(root),
            progress=lambda done, total, _: told.append((done, total)),
            stop=lambda: len(told) == 2,
        )
    assert told == [(0, 20), (8, 20)]
    assert len(list(root.glob("labels/*.json"))) == 16
    scan_scenes(section(root), progress=lambda done, total, _: told.append((done, total)))
    assert told[2:] == [(16, 20)]
    assert bytes_of(root) == bytes_of(made)


def test_who_waits_for_another_maker_gives_signs_of_life_and_hears_a_stop(
    made: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "data" / "generated.json"
    marker.parent.mkdir()
    shutil.copy(made / marker.name, marker)
    told: list[str] = []
    with alone(marker, wait=lambda: None), pytest.raises(StopRequested):
        scan_scenes(
            section(marker.parent),
            progress=lambda _done, _total, word: told.append(word),
            stop=lambda: len(told) == 3,
        )
    assert told == ["waiting for who makes scenes"] * 3
    assert os.listdir(marker.parent) == [marker.name]


@pytest.mark.fault(14)
@pytest.mark.parametrize("lost", ["videos/traj_00004_cam2.mkv", "labels/traj_00004.json"])
def test_a_lost_file_is_listed_by_id_and_stops(made: Path, tmp_path: Path, lost: str) -> None:
    root = shutil.copytree(made, tmp_path / "data")
    (root / lost).unlink()
    with pytest.raises(DataError, match=rf"1 of 20 scenes .*\n.*traj_00004: {lost} missing"):
        build_scenes(section(root), tmp_path / "scenes")
    assert not (tmp_path / "scenes").exists()
    assert not (root / lost).exists()
    lenient = section(root).model_copy(update={"damaged": "drop"})
    manifest = scan_scenes(lenient).manifest
    assert [item.path for item in manifest.dropped] == ["traj_00004"]
    assert len(manifest.samples) == 19
    # As the message says: without dataset.json what is lost is made anew.
    (root / "dataset.json").unlink()
    scan_scenes(section(root))
    assert bytes_of(root) == bytes_of(made)


@pytest.mark.fault(14)
def test_changed_bytes_are_no_longer_the_data(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "data")
    shutil.copy(root / "videos/traj_00001_cam0.mkv", root / "videos/traj_00002_cam0.mkv")
    with pytest.raises(DataError, match="traj_00002: its bytes are not those"):
        scan_scenes(section(root))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 8}, "seed is 7, not 8"),
        ({"frames": 16}, "frames is 12, not 16"),
        ({"disc": "constant"}, "disc is depth, not constant"),
        ({"codec": "h264"}, "codec is ffv1, not h264"),
    ],
)
def test_a_folder_of_other_settings_is_refused(made: Path, changed: dict, named: str) -> None:
    with pytest.raises(DataError, match=named):
        scan_scenes(section(made, **changed))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="did not make"):
        scan_scenes(section(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_stops_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 99, 99))
    with pytest.raises(DiskError, match=r"20 scenes need \d+ MiB"):
        scan_scenes(section(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_splits_in_class_order_are_refused_with_both_tables(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "data")
    label_of = {s.sample_id: s.label for s in Manifest.load(root / "manifest.parquet").samples}
    ordered = sorted(label_of, key=lambda name: label_of[name])
    write_splits(root, ordered, ["train"] * 12 + ["validation"] * 4 + ["test"] * 4)
    with pytest.raises(DataError, match=r"(?s)no train scene.*train: .*validation: "):
        scan_scenes(section(root))
    # Every class in every split, but not in the same shares.
    own = ["train"] * 3 + ["validation", "test"]
    uneven = [*own, *own, *own, "train", "validation", "validation", "validation", "test"]
    write_splits(root, ordered, uneven)
    with pytest.raises(
        DataError, match=r"(?s)parabolic differs.*train: .*validation: .*parabolic 3"
    ):
        scan_scenes(section(root))


def test_a_scene_in_two_splits_is_refused(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "data")
    with (root / "splits.csv").open("a") as file:
        file.write("traj_00001,train\ntraj_00001,test\n")
    with pytest.raises(DataError, match="traj_00001 stands in two splits"):
        scan_scenes(section(root))


def write_splits(root: Path, names: list[str], splits: list[str]) -> None:
    with (root / "splits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample_id", "split"])
        writer.writerows(zip(names, splits, strict=True))


def test_lossy_videos_say_so_and_differ(tmp_path: Path) -> None:
    manifest, store = build_scenes(
        section(tmp_path / "data", codec="h264", crf=28), tmp_path / "scenes", views=(0,)
    )
    assert manifest.notes == ["the videos are lossy (h264, crf 28)"]
    assert manifest.samples[0].path.endswith("_cam0.mp4")
    stream = build_scenes(section(tmp_path, stream=True), tmp_path / "other", views=(0,))[1]
    ours, exact = (s.frames([0, 1], [0]).float() for s in (store, stream))
    assert 0 < (ours - exact).abs().mean() < 8


def test_a_saved_store_gives_the_same_pictures(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    manifest, store = build_scenes(section(made), folder, views=(2, 0))
    store.save(folder)
    again = SceneStore.load(folder)
    assert again.views == (2, 0)
    assert not again.is_streamed
    assert again.bytes == 20 * 2 * 12 * 3 * 32 * 32 == (folder / "frames.u8").stat().st_size
    rows = again.rows(manifest.samples[4:6])
    assert rows.tolist() == [4, 5]
    assert torch.equal(again.frames(rows, [0]), store.frames(rows, [2, 0])[:, 1:])
    np.testing.assert_array_equal(again.pixels, store.pixels)
    with pytest.raises(ConfigError, match=r"camera\(s\) 1 are not kept"):
        again.frames(rows, [0, 1])
    (folder / "frames.u8").write_bytes(b"short")
    with pytest.raises(RecordError, match="5 bytes"):
        SceneStore.load(folder)


def test_detected_centres_of_all_cameras_are_the_true_ones(made: Path, tmp_path: Path) -> None:
    _, store = build_scenes(section(made), tmp_path / "scenes", views=(0,))
    assert store.pixels.shape == (20, 4, 12, 2)
    true, _ = project(store.cameras, store.positions[:, :12])
    assert np.abs(store.pixels - np.moveaxis(true, 0, 1)).max() < 0.15


def test_targets_are_five_frames_on_or_the_last_seen(made: Path, tmp_path: Path) -> None:
    _, store = build_scenes(section(made), tmp_path / "scenes", views=(0,))
    for row, name in enumerate(store.ids[:3]):
        label = json.loads((made / "labels" / f"{name}.json").read_text())
        expected = {"forecast": label["future_position"], "last-visible": label["positions"][-1]}
        for target, place in expected.items():
            found = store.targets([row], target)
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found[0], place, atol=1e-6)
    with pytest.raises(UnknownNameError, match="next"):
        store.targets([0], "next")
    store.positions[1, 12:] = np.nan
    with pytest.raises(DataError, match="traj_00001"):
        store.targets([0, 1], "forecast")
    assert store.targets([0, 1], "last-visible").isfinite().all()


def test_too_few_cameras_for_the_views_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"view\(s\) 2, 3 .* 2 cameras"):
        build_scenes(section(tmp_path, stream=True, cameras=2), tmp_path, views=(0, 2, 3))
    for count in (0, -1):
        with pytest.raises(ConfigError, match=f"cameras = {count}"):
            scan_scenes(section(tmp_path, stream=True, cameras=count))
    with pytest.raises(ConfigError, match="frames = 4"):
        scan_scenes(section(tmp_path, stream=True, frames=4))


def test_building_stops_when_asked_and_leaves_no_file(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StopRequested):
        build_scenes(section(made), tmp_path / "scenes", stop=lambda: True)
    assert list((tmp_path / "scenes").iterdir()) == []
