"""Studies of scenes through the real command line and real workers, from video files to the report;
and what is said of those that go wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from regatta.config.expand import protocol_id
from regatta.core.errors import ConfigError, RegattaError
from regatta.core.files import read_json
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder
from regatta.records.status import read_status
from tests.fusion_here import open_prepared, run_of, train_named
from tests.scenes_here import SHAPE, scene_entry, scene_mapping
from tests.test_bad_input import assert_told, regatta
from tests.test_fusion_studies import wait_until


def write_study(home: Path, content: dict[str, Any]) -> None:
    (home / "s.yaml").write_text(yaml.safe_dump(content))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def predictions(folder: StudyFolder, name: str) -> RunPredictions:
    where = run_of(folder, name).predictions(protocol_id(folder.study().protocol))
    return read_run_predictions(where, run_id="", entry=name, seed=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a study that made its files, trained three entries side by side, and reported."""
    home = tmp_path_factory.mktemp("finished")
    write_study(home, scene_mapping(Path("scenes")))
    assert_told(regatta("run", "s.yaml", cwd=home), 0, "report.html")
    return home


@pytest.fixture(scope="module")
def folder(finished: Path) -> StudyFolder:
    return StudyFolder(finished / "runs" / "small")


@pytest.mark.slow
def test_every_entry_is_trained_judged_and_told_of(folder: StudyFolder):
    assert {read_status(run.status).state for _, run in folder.runs()} == {"done"}
    page = (folder.report / "report.html").read_text()
    for name in ("frames", "paths", "both"):
        assert name in page
    listed = rows(folder.results / "compare_results.csv")
    columns = (
        "extractor,feature_dim,views,target,accuracy,accuracy_low,accuracy_high,mse_next_position,"
        "mse_low,mse_high,rmse,skill,training_time_s,model_size_mb,parameters,clips_per_second,"
        "seeds,verdict"
    )
    assert list(listed[0]) == columns.split(",")
    assert len(listed) == 3
    for name in ("per_class", "confusion_matrix", "position_error", "robustness", "ood"):
        assert rows(folder.results / f"{name}.csv"), name


@pytest.mark.slow
def test_numbers_of_the_table_are_those_of_the_predictions(folder: StudyFolder):
    table = rows(folder.results / "compare_results.csv")
    truth = {
        path.stem: json.loads(path.read_text())
        for path in (folder.path.parents[1] / "scenes" / "labels").glob("*.json")
    }
    for name, row in zip(("frames", "paths", "both"), table, strict=True):
        found = predictions(folder, name)
        assert found.positions is not None
        assert found.targets is not None
        assert found.horizon_frames == 5
        assert float(row["accuracy"]) == pytest.approx(found.correct()[0].mean())
        # The place in the label file of each scene, not what the predictions say of it.
        places = [truth[str(sample)]["future_position"] for sample in found.sample_ids]
        assert np.allclose(found.targets, places, atol=1e-5)
        error = ((found.positions[0] - np.array(places)) ** 2).mean()
        assert float(row["mse_next_position"]) == pytest.approx(error, rel=1e-4)


@pytest.mark.slow
def test_explanations_measure_with_two_cameras_and_say_so_with_one(folder: StudyFolder):
    for name, knows in (("frames", False), ("both", True)):
        where = run_of(folder, name).predictions(protocol_id(folder.study().protocol))
        lines = [json.loads(x) for x in (where / "explanations.jsonl").read_text().splitlines()]
        assert len(lines) == len(predictions(folder, name).sample_ids)
        for line in lines:
            assert (line["source"], line["accepted"]) == ("template", True)
            assert ("Track: not measured" in line["text"]) is not knows


@pytest.mark.slow
def test_maps_are_kept_with_what_they_are_worth(folder: StudyFolder):
    where = run_of(folder, "paths").predictions(protocol_id(folder.study().protocol))
    facts, kept = read_json(where / "attention.json"), load_file(where / "attention.safetensors")
    assert facts["method"] == "gradient"
    assert set(facts["labels"]) == {0, 1, 2, 3}
    assert kept["frames"].shape == (4, 8, 3, 32, 32)
    assert np.allclose(kept["maps"].sum(axis=(1, 2, 3)), 1, atol=1e-4)
    assert 0 < facts["faithfulness"]["area_share"] < 0.1


@pytest.mark.slow
def test_a_finished_study_starts_nothing_when_it_is_run_again(finished: Path, folder: StudyFolder):
    kept = {
        path: path.stat().st_mtime_ns
        for pattern in ("log.txt", "model.safetensors", "part-*.parquet", "*.mkv", "frames.u8")
        for home in (folder.path, finished / "scenes")
        for path in home.rglob(pattern)
    }
    assert len(kept) > 60
    assert_told(regatta("run", "s.yaml", cwd=finished), 0)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_entries_train_side_by_side(folder: StudyFolder):
    """The second worker of training begins before the first ends, as max_parallel says."""
    log = folder.supervisor_log.read_text().splitlines()
    moves = [line for line in log if " train:" in line]
    assert "attempt 1" in moves[0]
    assert "attempt 1" in moves[1]
    assert sum("exit code 0" in line for line in moves) == 3


@pytest.mark.slow
def test_scenes_from_a_seed_train_the_very_weights_of_those_from_files(
    finished: Path, folder: StudyFolder, tmp_path: Path
):
    streamed = open_prepared(tmp_path, scene_mapping(None))
    train_named(streamed, "both")
    stored = load_file(run_of(folder, "both").model / "model.safetensors")
    drawn = load_file(run_of(streamed, "both").model / "model.safetensors")
    assert not list((tmp_path / "small" / "scenes").glob("frames.u8"))
    assert {key: value.tobytes() for key, value in drawn.items()} == {
        key: value.tobytes() for key, value in stored.items()
    }


@pytest.mark.slow
def test_a_run_killed_with_its_supervisor_ends_as_if_undisturbed(tmp_path: Path):
    long = {"epochs": 20, "batch_size": 4, "checkpoint_every_steps": 1, "keep_every_epochs": None}
    content = scene_mapping(None, entries=[scene_entry("frames")], train=long)
    write_study(tmp_path, content)
    folder = open_prepared(tmp_path / "runs", content)
    undisturbed = open_prepared(tmp_path / "other", content)
    train_named(undisturbed, "frames")
    run = run_of(folder, "frames")
    child = subprocess.Popen(
        [sys.executable, "-m", "regatta", "train", "s.yaml"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def worker() -> int | None:
        process = read_status(run.status).process
        begun = any(run.checkpoints.glob("slot-*/manifest.json"))
        return process["pid"] if begun and process else None

    try:
        pid = wait_until(worker, child)
        child.kill()
        os.kill(pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert not run.is_trained()
    assert_told(regatta("train", "s.yaml", cwd=tmp_path), 0)
    ended = load_file(run.model / "model.safetensors")
    whole = load_file(run_of(undisturbed, "frames").model / "model.safetensors")
    assert {key: value.tobytes() for key, value in ended.items()} == {
        key: value.tobytes() for key, value in whole.items()
    }


@pytest.mark.slow
def test_weights_of_asked_epochs_are_kept_whole(folder: StudyFolder):
    checkpoints = run_of(folder, "frames").checkpoints
    kept = load_file(checkpoints / "epoch_02" / "weights.safetensors")
    assert read_json(checkpoints / "epoch_02" / "state.json")["progress"]["epoch"] == 2
    assert set(kept) == set(load_file(run_of(folder, "frames").model / "model.safetensors"))
    assert not (checkpoints / "epoch_01").exists()


@pytest.mark.slow
def test_a_lost_video_is_named_before_anything_is_trained(tmp_path: Path):
    write_study(tmp_path, scene_mapping(Path("scenes")))
    assert_told(regatta("data", "make", "trajectories", "--to", "scenes", *FLAGS, cwd=tmp_path), 0)
    assert_told(regatta("data", "check", "scenes", cwd=tmp_path), 0, "60 scenes", "box-and-speed")
    lost = sorted((tmp_path / "scenes" / "videos").glob("*_cam1.mkv"))[7]
    lost.unlink()
    label = sorted((tmp_path / "scenes" / "labels").glob("*.json"))[7]
    label.unlink()
    child = regatta("run", "s.yaml", cwd=tmp_path)
    assert child.returncode == 2
    assert lost.name.removesuffix("_cam1.mkv") in child.stdout + child.stderr
    assert not list((tmp_path / "runs").rglob("metrics.jsonl"))


FLAGS = ("--per-class", "15", "--seed", "5", "--cameras", "2", "--frames", "8", "--size", "32")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (scene_entry("x", views=[0, 2]), "there are 2 cameras"),
        (scene_entry("x", views=[]), "view"),
        ({**scene_entry("x"), "options": {"extractor": "magvit", "frames": 16}}, "frames 16"),
        ({**scene_entry("x"), "options": {"extractor": "magvti", **SHAPE}}, "magvit"),
        (scene_entry("x", targets=["yesterday"]), "yesterday"),
    ],
)
def test_an_entry_that_cannot_see_the_scenes_is_refused(
    tmp_path: Path, entry: dict[str, Any], words: str
):
    with pytest.raises(RegattaError) as caught:
        open_prepared(tmp_path, scene_mapping(None, entries=[entry]))
    assert words in f"{caught.value}"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"entries": [{"name": "v", "model": "cnn3d", "size": "tiny"}]}, "scenes of several"),
        ({"train": {"augment_options": {"flip": True}}}, "flip"),
        ({"train": {"mixup": 0.2}}, "no place of their own"),
        ({"protocol": {"name": "temporal-grid", "options": {}}}, "temporal-grid"),
    ],
)
def test_a_recipe_that_does_not_fit_scenes_is_refused(
    tmp_path: Path, sections: dict[str, Any], words: str
):
    with pytest.raises(ConfigError, match=words):
        open_prepared(tmp_path, scene_mapping(None, **sections))


def test_study_files_of_the_issue_name_entries_that_can_be_chosen(tmp_path: Path):
    home = Path(__file__).parents[1] / "studies" / "trajectories"
    for file in sorted(home.glob("*.yaml")):
        child = regatta("check", str(file), "--no-probe", "--json", cwd=tmp_path)
        assert_told(child, 0)


@pytest.mark.slow
def test_the_profiler_feeds_scenes_with_their_places(finished: Path):
    short = ("profile.stages=[load,step]", "profile.seconds=0.2", "profile.warmup=1")
    settings = [word for text in (*short, "entries=[both]") for word in ("--set", text)]
    child = regatta("profile", "s.yaml", *settings, cwd=finished)
    assert_told(child, 0, "load", "step", "ok")
