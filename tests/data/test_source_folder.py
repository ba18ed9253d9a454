"""Promises of the source `folder`: class folders become rows, and what is odd is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SampleRow
from regatta.data.sources import folder as folder_source
from regatta.data.splits import check_no_leak

read_folder = SOURCES.get("folder")


def lay_out(root: Path, *names: str) -> Path:
    """Empty files: a source opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(root: Path, **options: object) -> list[SampleRow]:
    return read_folder(root, **{"split": 1, "seed": 0, **options})


def test_split_and_class_folders_are_read(tmp_path: Path):
    lay_out(tmp_path, "train/run/a.mp4", "val/run/b.AVI", "test/walk/c.mov", "train/walk/d.mkv")
    rows = read(tmp_path)
    assert {(r.path.name, r.label_name, r.group, r.split) for r in rows} == {
        ("a.mp4", "run", "run/a", "train"),
        ("b.AVI", "run", "run/b", "validation"),
        ("c.mov", "walk", "walk/c", "test"),
        ("d.mkv", "walk", "walk/d", "train"),
    }


SPELLINGS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "Test": "test",
}


@pytest.mark.parametrize(("folder", "split"), SPELLINGS.items())
def test_spellings_of_splits(tmp_path: Path, folder: str, split: str):
    assert [row.split for row in read(lay_out(tmp_path, f"{folder}/run/a.mp4"))] == [split]


def test_class_folders_alone_get_a_seeded_group_split(tmp_path: Path):
    videos = [f"{label}/v{video:02d}" for label in "ab" for video in range(20)]
    names = [f"{video}_{part}.mp4" for video in videos for part in (1, 2)]
    lay_out(tmp_path, *names)
    pattern = r"(\w/v\d+)_"
    rows = read(tmp_path, group_pattern=pattern, test_fraction=0.25)
    assert Counter(row.split for row in rows) == {"train": 60, "test": 20}
    assert len({row.group for row in rows}) == 40
    check_no_leak(rows)
    assert read(tmp_path, group_pattern=pattern, test_fraction=0.25) == rows
    other = read(tmp_path, group_pattern=pattern, test_fraction=0.25, seed=1)
    assert [row.split for row in other] != [row.split for row in rows]


def test_equal_names_in_two_classes_are_two_groups(tmp_path: Path):
    rows = read(lay_out(tmp_path, "run/001.mp4", "walk/001.mp4"))
    assert {row.group for row in rows} == {"run/001", "walk/001"}


def test_classes_of_any_alphabet_and_linked_roots(tmp_path: Path):
    lay_out(tmp_path / "real", "Gehen über Straße/a.mp4", "走る/b c.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    rows = read(tmp_path / "link")
    assert {row.label_name for row in rows} == {"Gehen über Straße", "走る"}
    assert all(row.path.is_relative_to(tmp_path / "link") for row in rows)


def test_hidden_files_are_passed_over_and_others_are_listed(tmp_path: Path):
    lay_out(tmp_path, "a/1.mp4", "a/.DS_Store", "a/notes.txt", "a/sub/2.mp4", "b/3.mp4", "top.mp4")
    lay_out(tmp_path, ".git/config", "readme.md")
    rows = read(tmp_path)
    skipped = {row.path.name: row.skip_reason for row in rows if row.skip_reason}
    assert skipped == {
        "notes.txt": "not a video by its name",
        "sub": "a folder inside a class folder is not read",
        "top.mp4": "stands outside the class folders",
    }
    assert {row.path.name for row in rows if not row.skip_reason} == {"1.mp4", "3.mp4"}


def test_pieces_are_passed_on_to_the_scan(tmp_path: Path):
    rows = read(lay_out(tmp_path, "a/1.mp4"), segment_frames=50)
    assert [row.segment_frames for row in rows] == [50]


def test_empty_class_folders_are_all_named(tmp_path: Path):
    lay_out(tmp_path, "a/1.mp4", "b/readme.txt")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"without a video: b, c") as error:
        read(tmp_path)
    assert error.value.where == str(tmp_path)


def test_split_folders_beside_others_are_refused(tmp_path: Path):
    lay_out(tmp_path, "train/a/1.mp4", "archery/2.mp4")
    with pytest.raises(DataError, match="side by side: archery"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_root_without_classes_names_path_and_next_step(tmp_path: Path, kind: str):
    root = tmp_path / "root"
    if kind == "file":
        root.touch()
    elif kind == "empty":
        root.mkdir()
    with pytest.raises(DataError) as error:
        read(root)
    assert str(root) in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("pattern", "problem"), [("(g", "not a regular"), ("g", "0 groups"), ("(a)(b)", "2 groups")]
)
def test_a_group_pattern_has_exactly_one_group(tmp_path: Path, pattern: str, problem: str):
    lay_out(tmp_path, "a/1.mp4")
    with pytest.raises(ConfigError, match=problem) as error:
        read(tmp_path, group_pattern=pattern)
    assert error.value.where == "data.options.group_pattern"


def test_a_file_that_the_group_pattern_misses_is_named(tmp_path: Path):
    lay_out(tmp_path, "a/v_g01.mp4", "a/other.mp4")
    with pytest.raises(DataError, match=r"does not match 'a/other\.mp4'"):
        read(tmp_path, group_pattern=r"_(g\d+)")


def test_there_is_no_second_split(tmp_path: Path):
    with pytest.raises(ConfigError, match="has one split"):
        read(tmp_path, split=2)


def test_a_group_pattern_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, f"a/{'a' * 60}.mp4")
    monkeypatch.setattr(folder_source, "PATTERN_SECONDS", 1.0)
    with pytest.raises(ConfigError, match="takes more than 1 s") as error:
        read(tmp_path, group_pattern=r"a/((?:a+)+)$")
    assert error.value.where == "data.options.group_pattern"
