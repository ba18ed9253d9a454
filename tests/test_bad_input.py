"""Mistakes are told before anything starts: what is wrong, where, and what to do; nothing is left
behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regatta.config.load import load_study
from regatta.data.video_files import write_video
from regatta.records.run_folder import open_study
from regatta.records.status import read_status

STUDY = """
name: s
data: {source: folder, root: videos}
entries: [{name: c, model: cnn3d, size: tiny, checkpoint: none, options: {frames: 4}}]
train: {epochs: 0, batch_size: 2}
launch: {threads_per_run: 1}
"""


def write_clip(path: Path, *, seed: int = 0, frames: int = 8) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8)
    write_video(path, images, fps=10, codec="mpeg4", tag="XVID")


def write_videos(root: Path, classes: tuple[str, ...] = ("a", "b"), *, train: int = 2) -> None:
    """`<split>/<class>/<file>` with one clip for validation and one for judging per class."""
    seed = 0
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("validation", 1), ("test", 1)):
            for number in range(count):
                seed += 1
                write_clip(root / split / name / f"{label}-{split}{number}.avi", seed=seed)


def regatta(*arguments: str, cwd: Path, module: str = "regatta") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_told(child: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """The exit code, and every word in the message; never a traceback."""
    said = child.stdout + child.stderr
    assert child.returncode == code, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a good study file and its videos."""
    (tmp_path / "s.yaml").write_text(STUDY)
    write_videos(tmp_path / "videos")
    return tmp_path


def test_check_names_every_wrong_setting_with_its_place_and_cure(home: Path):
    cases = {
        "trian.epochs=1": ["unknown key 'trian'", "did you mean 'train'?"],
        "entries.c.train.epoch=1": ["entries.c.train.epoch", "did you mean 'epochs'?", "s.yaml"],
        "entries.c.model=cnn3": ["did you mean 'cnn3d'?", "entries.c"],
        "protocol.options.strid=1": ["named 'strid'", "known: none"],
        "train.lr=1e400": ["train.lr", "finite"],
        "train.betas=[1, 2]": ["train.betas.0", "less than 1"],
        "name=../x": ["name: 1 to 64 of a-z", "../x"],
        "data.root=s.yaml": ["is a file, not a folder", "data.root"],
        "data.root=": ["does not exist", str(Path("data") / "folder")],
        "train.parallel=ddd": ["train.parallel", "'ddp'"],
        "entries.c.checkpoint=./nowhere": ["entries.c.checkpoint", "model.safetensors"],
    }
    for override, words in cases.items():
        assert_told(regatta("check", "s.yaml", "--set", override, cwd=home), 2, *words, "next:")
    assert not (home / "runs").exists()


def test_a_study_file_in_another_encoding_is_named(home: Path):
    (home / "latin.yaml").write_bytes("title: é".encode("latin-1"))
    assert_told(regatta("check", "latin.yaml", cwd=home), 2, "UTF-8", "latin.yaml")


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_place_that_is_taken_is_refused_and_left_alone(home: Path, verb: str):
    (home / "in-the-way").mkdir()
    (home / "in-the-way" / "s").write_text("mine")
    told = regatta(verb, "s.yaml", "--runs", "in-the-way", cwd=home)
    assert_told(told, 3, "a file stands where a folder is needed", "--runs")
    (home / "theirs" / "s").mkdir(parents=True)
    (home / "theirs" / "s" / "thesis.txt").write_text("mine")
    told = regatta(verb, "s.yaml", "--runs", "theirs", cwd=home)
    assert_told(told, 2, "not a study of ours", "--runs")
    left = [path for path in home.glob("*/s/*") if path.parent.parent.name != "videos"]
    assert [path.name for path in left] == ["thesis.txt"]
    assert (home / "in-the-way" / "s").read_text() == "mine"


def test_a_folder_that_is_no_study_is_a_usage_error(home: Path):
    for verb in ("status", "compare", "report"):
        assert_told(regatta(verb, "videos", cwd=home), 2, "not a study folder", "regatta run")


def test_data_check_tells_files_that_are_no_videos_from_damaged_ones(home: Path):
    (home / "videos" / "train" / "a" / "notes.txt").write_text("not a video, and no harm")
    good = regatta("data", "check", "folder", "--root", "videos", "--json", cwd=home)
    assert_told(good, 0)
    facts = json.loads(good.stdout)
    assert [item["path"] for item in facts["left_out"]] == ["train/a/notes.txt"]
    assert facts["damaged"] == []
    (home / "videos" / "train" / "b" / "empty.avi").write_bytes(b"")
    bad = regatta("data", "check", "folder", "--root", "videos", cwd=home)
    assert_told(bad, 2, "damaged: train/b/empty.avi", "left out: train/a/notes.txt")


def test_data_check_says_why_a_class_is_lost_and_where_a_leak_is(home: Path):
    rows = ["video_path,label,start_frame,end_frame", "train/a/0-train0.avi,a,0,99"]
    (home / "videos" / "list.csv").write_text("\n".join([*rows, "train/b/1-train0.avi,b,0,5"]))
    scan = ("data", "check", "manifest", "--root", "videos", "--set", "options.csv=list.csv")
    assert_told(regatta(*scan, cwd=home), 2, "can be used: a", "0-train0.avi", "it has 8")
    rows = ["video_path,label,split,group", "train/a/0-train0.avi,a,train,g1"]
    (home / "videos" / "list.csv").write_text("\n".join([*rows, "test/b/1-test0.avi,b,test,g1"]))
    assert_told(regatta(*scan, cwd=home), 2, "g1 (test, train)", f"where: {home / 'videos'}")


def test_data_make_refuses_a_source_that_only_reads(home: Path):
    told = regatta("data", "make", "folder", "--to", "videos", cwd=home)
    assert_told(told, 2, "makes none", "rotors")


def test_a_worker_refuses_wrong_names_and_writes_nothing(home: Path):

    folder = open_study(home / "runs", load_study(home / "s.yaml"))
    run_id = folder.runs()[0][0].run_id
    before = sorted(folder.path.rglob("*"))
    cases = [
        (["prepare", "--study", "runs/t"], 2, "not a study folder"),
        (["train", "--study", "runs/s"], 2, "no run is named"),
        (["train", "--study", "runs/s", "--runs", run_id[:-1]], 2, f"did you mean '{run_id}'?"),
        (["judge", "--study", "runs/s", "--runs", run_id, "--shard", "2/1"], 2, "not I/N"),
    ]
    for arguments, code, word in cases:
        assert_told(regatta(*arguments, cwd=home, module="regatta.worker"), code, word)
    assert sorted(folder.path.rglob("*")) == before
    assert not (home / "runs" / "t").exists()


def test_a_device_that_is_not_there_is_an_environment_fault(home: Path):

    run_id = open_study(home / "runs", load_study(home / "s.yaml")).runs()[0][0].run_id
    place = ("train", "--study", "runs/s", "--runs", run_id, "--device", "cuda:99")
    told = regatta(*place, cwd=home, module="regatta.worker")
    assert_told(told, 3, "there is no device 'cuda:99'", "regatta doctor")
    status = read_status(home / "runs" / "s" / "runs" / run_id / "status.json")
    assert (status.state, status.cause, status.exit_code) == ("failed", "environment", 3)
