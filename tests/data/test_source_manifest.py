"""Promises of the source `manifest`: a CSV list becomes rows, and a bad line is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SampleRow

read_list = SOURCES.get("manifest")


def read(root: Path, text: str | bytes | None = None, **options: object) -> list[SampleRow]:
    content = text.encode() if isinstance(text, str) else text
    if content is not None:
        (root / "manifest.csv").write_bytes(content)
    return read_list(root, **{"split": 1, "seed": 0, **options})


def test_all_columns_are_read(tmp_path: Path):
    rows = read(
        tmp_path,
        "video_path,label,group,split,start_frame,end_frame\n"
        "a/1.mp4,run,film1,train,10,60\n"
        "b/2.mp4,walk,film2,val,,\n"
        "b/3.mp4,walk,film3,test,5,\n",
    )
    assert rows == [
        SampleRow(tmp_path / "a/1.mp4", "run", "film1", "train", 10, 50),
        SampleRow(tmp_path / "b/2.mp4", "walk", "film2", "validation", 0, None),
        SampleRow(tmp_path / "b/3.mp4", "walk", "film3", "test", 5, None),
    ]


def test_exports_of_spreadsheets_are_read(tmp_path: Path):
    rows = read(
        tmp_path,
        b"\xef\xbb\xbfvideo_path,label,split\r\n"
        b'"clips/one, two.mp4", run ,Train\r\n'
        b"\r\n"
        b"clips/\xc3\xbc.mp4,\xe8\xb5\xb0\xe3\x82\x8b,TEST \r\n",
    )
    assert [(r.path.name, r.label_name, r.split) for r in rows] == [
        ("one, two.mp4", "run", "train"),
        ("ü.mp4", "走る", "test"),
    ]


def test_the_group_is_the_file_when_none_is_given(tmp_path: Path):
    rows = read(
        tmp_path,
        "video_path,label,group,start_frame,end_frame\n"
        "a/1.mp4,run,,0,10\n./a/1.mp4,run,,10,20\nb/2.mp4,walk,film,,\n",
    )
    assert [row.group for row in rows] == ["a/1.mp4", "a/1.mp4", "film"]
    assert rows[0].path == rows[1].path


def test_a_list_without_splits_gets_a_seeded_group_split(tmp_path: Path):
    lines = [f"{c}{i}.mp4,{c},{c}{i // 2}" for c in "ab" for i in range(40)]
    text = "\n".join(["video_path,label,group", *lines])
    rows = read(tmp_path, text, test_fraction=0.25)
    assert Counter((r.label_name, r.split) for r in rows) == {
        ("a", "train"): 30, ("a", "test"): 10, ("b", "train"): 30, ("b", "test"): 10
    }  # fmt: skip
    assert read(tmp_path, test_fraction=0.25, seed=1) != rows


def test_other_columns_become_extras(tmp_path: Path):
    rows = read(tmp_path, "video_path,label,camera,height_m\n1.mp4,run,left,1.75\n2.mp4,run,nan,\n")
    assert [row.extra for row in rows] == [
        {"camera": "left", "height_m": 1.75},
        {"camera": "nan", "height_m": ""},
    ]


def test_the_list_may_stand_elsewhere_and_pieces_are_passed_on(tmp_path: Path):
    root = tmp_path / "videos"
    root.mkdir()
    (tmp_path / "my list.csv").write_text("video_path,label\n1.mp4,run\n")
    for name in (str(tmp_path / "my list.csv"), "../my list.csv"):
        rows = read(root, csv=name, segment_frames=25)
        assert [(row.path, row.segment_frames) for row in rows] == [(root / "1.mp4", 25)]


@pytest.mark.parametrize(
    "path", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "a/b/../../../../x.mp4"]
)
def test_paths_outside_the_root_are_refused(tmp_path: Path, path: str):
    with pytest.raises(DataError, match="leaves the data folder") as error:
        read(tmp_path, f"video_path,label\nok.mp4,run\n{path},run\n")
    assert error.value.where == f"{tmp_path / 'manifest.csv'}:3"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1.mp4,run,train,5,5", "end_frame 5 is not after start_frame 5"),
        ("1.mp4,run,train,-1,5", "start_frame is not a whole number"),
        ("1.mp4,run,train,1,five", "end_frame is not a whole number"),
        ("1.mp4,run,holdout,,", "unknown split 'holdout'"),
        ("1.mp4,,train,,", "label is empty"),
        (",run,train,,", "video_path is empty"),
        ("1.mp4,run,train", "3 fields where the header has 5"),
        ('"1.mp4,run,train,,', "not CSV"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, problem: str):
    header = "video_path,label,split,start_frame,end_frame"
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path, f"{header}\nok.mp4,run,train,,\n{line}\n")
    assert str(error.value.where).startswith(f"{tmp_path / 'manifest.csv'}:")
    assert str(error.value.where).split(":")[-1] in "34"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("video_path,label,gruop", "unknown column 'gruop'; did you mean 'group'"),
        ("video,label", "did you mean 'video_path'"),
        ("video_path,tag", "lacks label"),
        ("video_path,label,start", "did you mean 'start_frame'"),
        ("video_path,label,label", "names a column twice"),
    ],
)
def test_a_misspelt_or_missing_column_is_named(tmp_path: Path, header: str, problem: str):
    with pytest.raises(DataError, match=problem):
        read(tmp_path, f"{header}\n1.mp4,run,x\n")


def test_a_label_outside_the_class_list_names_the_nearest(tmp_path: Path):
    with pytest.raises(DataError, match="label 'runing' is not in the class list") as error:
        read(tmp_path, "video_path,label\n1.mp4,runing\n", classes=["running", "walking"])
    assert error.value.hint == "did you mean 'running'?"


def test_splits_on_some_lines_only_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="1 of 2 lines give no split"):
        read(tmp_path, "video_path,label,split\n1.mp4,run,train\n2.mp4,run,\n")


def test_a_missing_empty_or_undecodable_list_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="list of videos does not exist") as error:
        read(tmp_path)
    assert error.value.where == str(tmp_path / "manifest.csv")
    for content in (b"", b"\r\n \r\n", "größe".encode("latin-1")):
        with pytest.raises(DataError, match="list of videos"):
            read(tmp_path, content)


def test_missing_root_and_second_split_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has one split"):
        read(tmp_path, split=2)
