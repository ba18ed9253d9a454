"""Promises of the source `hmdb51`: the official per-class lists, read exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing
from regatta.data.scan import build_manifest
from tests.data.stand_ins import HMDB_CLASSES, write_hmdb51, write_lines

read_hmdb51 = SOURCES.get("hmdb51")

PUBLISHED = [
    # Lines of the published brush_hair, climb_stairs and run lists of split 1, in their spelling.
    ("brush_hair", "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 ", "April_09"),
    (
        "brush_hair",
        "Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!_brush_hair_h_cm_np1_fr_goo_0.avi 2 ",
        "Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!",
    ),
    ("brush_hair", "brushing_hair_brush_hair_f_nm_np2_ri_goo_3.avi 1 ", "brushing_hair"),
    (
        "climb_stairs",
        "Stairs_to_Perpetual_Youth_and_Longevity___Taishan_(Mount_Tai)_climb_stairs_f_cm_np1_fr"
        "_med_1.avi 1 ",
        "Stairs_to_Perpetual_Youth_and_Longevity___Taishan_(Mount_Tai)",
    ),
    ("run", "metacafe_coolsoccer_run_f_cm_np10_le_bad_2.avi 1 ", "metacafe_coolsoccer"),
    ("run", "TheBoondockSaints_run_f_cm_np3_fr_bad_128.avi 1 ", "TheBoondockSaints"),
]


def read(root: Path, **options: object) -> Listing:
    return read_hmdb51(root, **{"split": 1, "seed": 0, **options})


@pytest.mark.parametrize(("label", "line", "source"), PUBLISHED)
def test_the_source_video_of_published_names_is_found(
    tmp_path: Path, label: str, line: str, source: str
):
    write_lines(tmp_path / f"{label}_test_split1.txt", [line])
    (row,) = read(tmp_path).rows
    assert row.group == f"{label}/{source}"
    assert row.path == tmp_path / label / line.rsplit(maxsplit=1)[0]
    assert row.split == {"1": "train", "2": "test"}[line.split()[-1]]


@pytest.mark.parametrize("videos", ["videos", "hmdb51_org", "."])
@pytest.mark.parametrize("lists", ["testTrainMulti_7030_splits", "test_train_splits", "."])
def test_usual_layouts_are_found(tmp_path: Path, videos: str, lists: str):
    rows = read(write_hmdb51(tmp_path, videos=videos, lists=lists)).rows
    assert Counter((row.label_name, row.split) for row in rows) == {
        (label, split): count
        for label in HMDB_CLASSES
        for split, count in (("train", 6), ("test", 2))
    }
    assert all(row.path.is_file() for row in rows)


def test_a_stand_in_tree_becomes_a_manifest_whose_validation_parts_no_source(tmp_path: Path):
    root = write_hmdb51(tmp_path / "HMDB")
    data = DataSection.model_validate({"source": "hmdb51", "root": str(root), "split": 2})
    manifest = build_manifest(data, cache_folder=tmp_path / "cache")
    assert manifest.classes == list(HMDB_CLASSES)
    splits = {name: {s.group for s in manifest.split(name)} for name in ("train", "validation")}
    assert {group.split("/")[0] for group in splits["validation"]} == set(HMDB_CLASSES)
    assert not splits["train"] & splits["validation"]
    assert {s.group for s in manifest.split("test")} == {f"{c}/BIG_FISH" for c in HMDB_CLASSES}
    expected = "HMDB51 split 2: 18 training and 6 test clips are listed, 6 are in neither"
    assert manifest.notes[0] == expected
    assert "there are lists of 3 classes; HMDB51 has 51" in manifest.notes


def test_line_ends_byte_order_marks_and_tabs_change_nothing(tmp_path: Path):
    root = write_hmdb51(tmp_path)
    expected = read(root)
    for path in (root / "test_train_splits").iterdir():
        text = path.read_text().replace(" 1 ", "\t1").replace("\n", "  \r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    assert read(root) == expected


def test_a_source_video_in_two_parts_is_a_leak_unless_clips_are_taken_alone(tmp_path: Path):
    lines = [f"Crash_run_f_cm_np1_ba_med_{n}.avi {n}" for n in (1, 2)]
    write_lines(tmp_path / "run_test_split1.txt", lines)
    with pytest.raises(SplitLeakError, match=r"run/Crash \(test, train\)") as error:
        read(tmp_path)
    assert "data.options.group: clip" in str(error.value)
    listing = read(tmp_path, group="clip")
    assert len({row.group for row in listing.rows}) == 2
    assert "1 source video(s) stand in more than one split: run/Crash" in listing.notes[-1]


def test_a_name_without_tags_is_its_own_group_and_counted(tmp_path: Path):
    write_lines(
        tmp_path / "run_test_split1.txt", ["holiday.avi 1", "x_run_f_cm_np1_ba_med_1.avi 1"]
    )
    listing = read(tmp_path)
    assert [row.group for row in listing.rows] == ["run/holiday.avi", "run/x"]
    assert "1 file name(s) do not tell the source video; each is its own group" in listing.notes


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.avi", "expected '<file> <0, 1 or 2>'"),
        ("a.avi 3", "expected '<file> <0, 1 or 2>'"),
        ("1", "expected '<file> <0, 1 or 2>'"),
        ("../../secret.avi 1", "leaves the data folder"),
        ("/etc/passwd.avi 1", "leaves the data folder"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, problem: str):
    path = write_lines(tmp_path / "run_test_split1.txt", ["ok.avi 1", line])
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert error.value.where == f"{path}:2"


def test_missing_root_lists_splits_and_classes_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no lists <class>_test_split1") as missing:
        read(tmp_path)
    assert "data.options.lists" in str(missing.value)
    write_hmdb51(tmp_path)
    with pytest.raises(ConfigError, match="splits 1, 2 and 3"):
        read(tmp_path, split=4)
    with pytest.raises(ConfigError, match="no class named 'climbing'") as unknown:
        read(tmp_path, classes=["climbing"])
    assert unknown.value.hint == "did you mean 'climb'?"
