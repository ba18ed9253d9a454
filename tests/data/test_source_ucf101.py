"""Promises of the source `ucf101`: the official lists, read exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SampleRow
from regatta.data.scan import build_manifest
from regatta.data.splits import check_no_leak
from regatta.data.video_files import write_video

read_ucf101 = SOURCES.get("ucf101")
CLASSES = ("Archery", "HandstandPushups", "YoYo")


def read(root: Path, **options: object) -> list[SampleRow]:
    return read_ucf101(root, **{"split": 1, "seed": 0, **options})


@pytest.fixture
def official(shared_data: Path) -> Path:
    return shared_data / "ucfTrainTestlist"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two classes, lists as published: CRLF, trailing blanks, numbers on training lines only."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 YoYo\r\n\r\n")
    clips = [(c, n, g) for n, c in ((1, "Archery"), (2, "YoYo")) for g in ("g08", "g09")]
    train = [f"{c}/v_{c}_{g}_c01.avi {n} " for c, n, g in clips]
    test = [f"{c}/v_{c}_g01_c01.avi" for c in ("Archery", "YoYo")]
    (lists / "trainlist01.txt").write_bytes("\r\n".join([*train, "", ""]).encode())
    (lists / "testlist01.txt").write_bytes("\r\n".join([*test, ""]).encode())
    return tmp_path


@pytest.mark.parametrize(
    ("split", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)]
)
def test_official_lists_have_the_published_sizes(
    tmp_path: Path, official: Path, split: int, train: int, test: int
):
    rows = read(tmp_path, split=split, lists=str(official))
    assert Counter(row.split for row in rows) == {"train": train, "test": test}
    assert len({row.label_name for row in rows}) == 101
    assert len({row.path for row in rows}) == 13320
    check_no_leak(rows)


def test_groups_are_the_25_source_videos_of_each_class(tmp_path: Path, official: Path):
    groups = {row.group for row in read(tmp_path, lists=str(official))}
    per_class = Counter(group.split("/")[0] for group in groups)
    assert set(per_class.values()) == {25}
    assert "Archery/g07" in groups
    assert "HandstandPushups/g25" in groups


@pytest.mark.parametrize("below", ["UCF-101", ""])
def test_stand_in_clips_of_official_classes_become_a_manifest(
    tmp_path: Path, official: Path, below: str
):
    root = tmp_path / "UCF101 data"
    options = {"lists": str(official), "classes": list(CLASSES)}
    (root / below).mkdir(parents=True)
    rows = [row for row in read(root, **options) if row.group.endswith(("g01", "g08", "g09"))]
    image = np.zeros((4, 16, 16, 3), np.uint8)
    clip = write_video(root / "one.avi", image, fps=25, codec="mpeg4", tag="XVID").read_bytes()
    for row in rows:
        row.path.parent.mkdir(parents=True, exist_ok=True)
        row.path.write_bytes(clip)
    data = DataSection.model_validate(
        {"source": "ucf101", "root": str(root), "damaged": "drop", "options": options}
    )
    manifest = build_manifest(data, cache_folder=tmp_path / "cache")
    assert manifest.classes == list(CLASSES)
    found = {sample.sample_id for sample in manifest.samples}
    assert found == {row.path.relative_to(root).as_posix() for row in rows}
    assert {s.group for s in manifest.split("test")} == {f"{name}/g01" for name in CLASSES}
    assert {s.group for s in manifest.samples if s.split != "test"} == {
        f"{name}/{group}" for name in CLASSES for group in ("g08", "g09")
    }
    assert {item.reason for item in manifest.dropped} == {"the file does not exist"}


def test_line_ends_blanks_and_missing_numbers_are_as_published(small: Path):
    rows = read(small)
    assert [(row.split, row.group) for row in rows] == [
        ("train", "Archery/g08"),
        ("train", "Archery/g09"),
        ("train", "YoYo/g08"),
        ("train", "YoYo/g09"),
        ("test", "Archery/g01"),
        ("test", "YoYo/g01"),
    ]
    assert rows[0].path == small / "Archery" / "v_Archery_g08_c01.avi"


def test_lists_saved_by_an_editor_with_a_byte_order_mark_are_read(small: Path):
    expected = read(small)
    for path in (small / "ucfTrainTestlist").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(small) == expected


def test_chosen_classes_and_pieces(small: Path):
    rows = read(small, classes=["YoYo"], segment_frames=50)
    assert {row.label_name for row in rows} == {"YoYo"}
    assert {row.segment_frames for row in rows} == {50}


def test_an_unknown_class_names_the_nearest(small: Path):
    with pytest.raises(ConfigError, match="no class named 'Archry'") as error:
        read(small, classes=["Archry"])
    assert error.value.hint == "did you mean 'Archery'?"


@pytest.mark.parametrize("split", [4, 10])
def test_there_are_three_splits(small: Path, split: int):
    with pytest.raises(ConfigError, match="splits 1, 2 and 3"):
        read(small, split=split)


def test_missing_root_and_lists_name_path_and_next_step(tmp_path: Path, small: Path):
    with pytest.raises(DataError, match="does not exist") as error:
        read(tmp_path / "nowhere")
    assert "data.root" in str(error.value)
    with pytest.raises(DataError, match="list is missing") as error:
        read(small, split=3)
    assert error.value.where == str(small / "ucfTrainTestlist" / "trainlist03.txt")
    assert "data.options.lists" in str(error.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("../../etc/v_passwd_g01_c01.avi", r"'\.\.' is not in classInd"),
        ("Archery/../../v_a_g01_c01.avi", "leaves the data folder"),
        ("/etc/v_passwd_g01_c01.avi", "'' is not in classInd"),
        ("Archry/v_Archry_g01_c01.avi", "'Archry' is not in classInd"),
        ("v_Archery_g01_c01.avi", "is not in classInd"),
        ("Archery/v_Archery_g01_c01.avi 2", "says class 2, but Archery is 1"),
        ("Archery/holiday.avi", "does not name its source video"),
    ],
)
def test_a_bad_list_line_is_named_by_file_and_number(small: Path, line: str, problem: str):
    path = small / "ucfTrainTestlist" / "testlist01.txt"
    path.write_text(f"Archery/v_Archery_g01_c01.avi\n{line}\n")
    with pytest.raises(DataError, match=problem) as error:
        read(small)
    assert error.value.where == f"{path}:2"


@pytest.mark.parametrize("content", ["Archery 1\n", "1\n"])
def test_a_bad_class_list_is_named_by_line(small: Path, content: str):
    path = small / "ucfTrainTestlist" / "classInd.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="expected '<number> <class>'") as error:
        read(small)
    assert error.value.where == f"{path}:1"


def test_class_numbers_may_start_at_0_where_both_files_do(small: Path):
    expected = read(small)
    lists = small / "ucfTrainTestlist"
    (lists / "classInd.txt").write_text("0 Archery\n1 YoYo\n")
    with pytest.raises(DataError, match="says class 1, but Archery is 0"):
        read(small)
    path = lists / "trainlist01.txt"
    path.write_text(path.read_text().replace(".avi 1", ".avi 0").replace(".avi 2", ".avi 1"))
    assert read(small) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Archery/v_Archery_g08_c01.avi", r"Archery/g08 \(test, train\)"),
        ("Archery/v_Archery_g09_c07.avi", r"Archery/g09 \(test, train\)"),
    ],
)
def test_a_clip_or_its_source_in_both_lists_is_a_leak(
    tmp_path: Path, small: Path, line: str, problem: str
):
    with (small / "ucfTrainTestlist" / "testlist01.txt").open("a") as handle:
        handle.write(f"{line}\n")
    data = DataSection.model_validate({"source": "ucf101", "root": str(small)})
    with pytest.raises(SplitLeakError, match=problem):
        build_manifest(data, cache_folder=tmp_path / "cache")
