"""Promises of `regatta data`: every file decoded once, damage named, the user's files untouched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regatta.data.video_files import write_video


def regatta(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regatta", "data", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("dance", "jump"):
        for number in range(6):
            images = rng.integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
            write_video(
                tmp_path / "videos" / label / f"{label}{number}.avi",
                images,
                fps=25,
                codec="mpeg4",
                tag="XVID",
            )
    return tmp_path / "videos"


def test_a_good_folder_is_counted(videos: Path, tmp_path: Path):
    child = regatta("check", "folder", "--root", "videos", "--json", cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    facts = json.loads(child.stdout)
    assert (facts["samples"], facts["classes"], facts["damaged"]) == (12, 2, [])
    assert sum(row["samples"] for row in facts["splits"].values()) == 12
    assert all(row["classes"] == 2 for row in facts["splits"].values())
    assert facts["frames"] == {"fewest": 8, "most": 8}
    assert (facts["fps"], facts["sizes"]) == ([25.0], ["64x48"])


def test_damaged_files_are_all_named_and_none_is_touched(videos: Path, tmp_path: Path):
    whole = (videos / "jump" / "jump0.avi").read_bytes()
    (videos / "jump" / "jump0.avi").write_bytes(whole[: len(whole) // 2])
    (videos / "dance" / "text.avi").write_text("no video at all")
    (videos / "dance" / "empty.avi").write_bytes(b"")
    before = {path: path.read_bytes() for path in videos.rglob("*.avi")}
    child = regatta("check", "folder", "--root", "videos", cwd=tmp_path)
    assert child.returncode == 2
    for name in ("jump0.avi", "text.avi", "empty.avi"):
        assert f"{name}: " in child.stdout
    assert "data.damaged: drop" in child.stdout
    assert {path: path.read_bytes() for path in videos.rglob("*.avi")} == before


def test_with_the_drop_policy_damage_is_listed_and_accepted(videos: Path, tmp_path: Path):
    (videos / "dance" / "text.avi").write_text("no video at all")
    child = regatta(
        "check", "folder", "--root", "videos", "--set", "damaged=drop", "--json", cwd=tmp_path
    )
    assert child.returncode == 0, child.stderr
    assert [Path(d["path"]).name for d in json.loads(child.stdout)["damaged"]] == ["text.avi"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "foldr", "--root", "videos"), ["did you mean 'folder'"]),
        (("check", "folder", "--root", "nowhere"), ["nowhere"]),
        (
            ("check", "folder", "--root", "videos", "--set", "options.grup_pattern=x"),
            ["group_pattern"],
        ),
    ],
)
def test_mistakes_are_named(
    videos: Path, tmp_path: Path, arguments: tuple[str, ...], words: list[str]
):
    child = regatta(*arguments, cwd=tmp_path)
    assert child.returncode == 2
    assert "Traceback" not in child.stderr
    for word in words:
        assert word in child.stderr


def test_official_ucf101_lists_with_stand_in_files(shared_data: Path, tmp_path: Path):
    root = tmp_path / "ucf"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    for path in (shared_data / "ucfTrainTestlist").iterdir():
        (root / "ucfTrainTestlist" / path.name).write_bytes(path.read_bytes())
    images = np.zeros((4, 240, 320, 3), np.uint8)
    classes = ("Archery", "YoYo")
    listed = {"train": 0, "test": 0}
    for split in listed:
        for line in (root / "ucfTrainTestlist" / f"{split}list01.txt").read_text().split("\n"):
            name = line.strip().split(" ")[0]
            if name.startswith(tuple(f"{c}/" for c in classes)):
                listed[split] += 1
                write_video(root / "UCF-101" / name, images, fps=25, codec="mpeg4", tag="XVID")
    child = regatta(
        "check",
        "ucf101",
        "--root",
        "ucf",
        "--set",
        "options.classes=[Archery,YoYo]",
        "--json",
        cwd=tmp_path,
    )
    assert child.returncode == 0, child.stderr
    facts = json.loads(child.stdout)
    assert facts["splits"]["test"]["samples"] == listed["test"]
    carved = facts["splits"]["train"]["samples"] + facts["splits"]["validation"]["samples"]
    assert carved == listed["train"]
    # Lists 1 hold groups 8-25 for training and 1-7 for testing, in every class.
    assert facts["splits"]["test"]["groups"] == 7 * len(classes)
    assert facts["sizes"] == ["320x240"]


def test_make_writes_real_files_once(tmp_path: Path):
    options = ["--set", "options={train_clips: 4, validation_clips: 4, test_clips: 4, frames: 8}"]
    first = regatta("make", "rotors", "--to", "rotors", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "rotors").rglob("*.mp4")}
    assert len(files) == 12
    assert regatta("make", "rotors", "--to", "rotors", *options, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
