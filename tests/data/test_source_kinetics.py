"""Promises of the source `kinetics`: csv files with a header, and `path label` lists."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing
from regatta.data.scan import build_manifest
from tests.data.stand_ins import write_clip, write_kinetics_csv, write_lines

read_kinetics = SOURCES.get("kinetics")


def read(root: Path, **options: object) -> Listing:
    return read_kinetics(root, **{"split": 1, "seed": 0, **options})


def write_pair(root: Path, train: list[str], judged: list[str]) -> Path:
    write_lines(root / "train.txt", train)
    write_lines(root / "val.txt", judged)
    return root


def labels_of(listing: Listing) -> list[str]:
    return [row.label_name for row in listing.rows]


@pytest.mark.parametrize("folders", [("train", "val"), ("videos_train", "videos_val")])
@pytest.mark.parametrize("class_folders", [True, False])
def test_files_of_the_csv_form_are_found_in_usual_layouts(
    tmp_path: Path, class_folders: bool, folders: tuple[str, str]
):
    write_kinetics_csv(tmp_path, class_folders=class_folders, folders=folders)
    listing = read(tmp_path)
    assert Counter((row.label_name, row.split) for row in listing.rows) == {
        (label, split): count
        for label in ("air drumming", "tai chi")
        for split, count in (("train", 5), ("test", 2))
    }
    assert all(row.path.is_file() and row.path.stem.startswith(row.group) for row in listing.rows)
    assert "the published validation list is judged as the test split" in listing.notes


def test_a_stand_in_tree_becomes_a_manifest(tmp_path: Path):
    root = write_kinetics_csv(tmp_path / "k400")
    data = DataSection.model_validate({"source": "kinetics", "root": str(root)})
    manifest = build_manifest(data, cache_folder=tmp_path / "cache")
    assert manifest.classes == ["air drumming", "tai chi"]
    counts = Counter(sample.split for sample in manifest.samples)
    assert counts == {"train": 8, "validation": 2, "test": 4}


def test_files_named_by_id_alone_and_other_containers_are_found(tmp_path: Path):
    write_kinetics_csv(tmp_path)
    first, second, *_ = read(tmp_path).rows
    first.path.rename(first.path.with_name(f"{first.group}.webm"))
    shutil.move(second.path, tmp_path / "train" / second.path.name)
    found = read(tmp_path).rows
    assert found[0].path.name == f"{first.group}.webm"
    assert found[1].path.parent == tmp_path / "train"


def test_whole_copies_of_damaged_files_go_first(tmp_path: Path):
    write_kinetics_csv(tmp_path)
    row = read(tmp_path).rows[0]
    better = tmp_path / "replacement/replacement_for_corrupted_k400" / row.path.name
    write_clip(better, 7)
    assert read(tmp_path).rows[0].path == better


def test_a_video_that_is_gone_keeps_its_expected_name(tmp_path: Path):
    row = read(write_kinetics_csv(tmp_path)).rows[3]
    row.path.unlink()
    assert read(tmp_path).rows[3].path == tmp_path / "train" / row.path.name


@pytest.mark.parametrize("separator", [" ", ",", ", ", "::", "\t"])
def test_separators_names_with_blanks_and_paths_with_blanks(tmp_path: Path, separator: str):
    train = [f"air drumming/a b_{n}.mp4{separator}air drumming" for n in range(2)]
    write_pair(tmp_path, train, [f"tai chi/c.MP4{separator}tai chi"])
    rows = read(tmp_path).rows
    assert [(r.path.relative_to(tmp_path).as_posix(), r.label_name) for r in rows] == [
        ("air drumming/a b_0.mp4", "air drumming"),
        ("air drumming/a b_1.mp4", "air drumming"),
        ("tai chi/c.MP4", "tai chi"),
    ]


def test_lists_of_an_editor_read_the_same(tmp_path: Path):
    expected = read(write_pair(tmp_path, ["a.mp4 0", "b.mp4 1"], ["c.mp4 1"]))
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa.mp4 0 \t\r\n\r\nb.mp4 1  \r\n")
    assert read(tmp_path) == expected


def test_listed_paths_may_start_at_the_folder_of_the_videos(tmp_path: Path):
    write_clip(tmp_path / "videos_train" / "run" / "a.mp4", 1)
    write_clip(tmp_path / "videos_val" / "b.mp4", 2)
    write_pair(tmp_path, ["run/a.mp4 0"], ["b.mp4 0", f"{tmp_path}/videos_val/b.mp4 0"])
    rows = read(tmp_path).rows
    assert rows[0].path == tmp_path / "videos_train" / "run" / "a.mp4"
    assert rows[1].path == rows[2].path == tmp_path / "videos_val" / "b.mp4"


def test_the_source_video_is_the_youtube_id(tmp_path: Path):
    names = ["run/-_abcDEF012_000003_000013.mp4", "run/0123456789A.mp4", "run/mine.mp4"]
    write_pair(tmp_path, [f"{name} 0" for name in names], ["x.mp4 0"])
    assert [row.group for row in read(tmp_path).rows] == [
        "-_abcDEF012",
        "0123456789A",
        "run/mine",
        "x",
    ]


def test_one_video_in_both_lists_is_a_leak(tmp_path: Path):
    lines = [f"run/0123456789A_{n:06d}_{n + 10:06d}.mp4 0" for n in (0, 10)]
    write_pair(tmp_path, lines[:1], lines[1:])
    with pytest.raises(SplitLeakError, match="0123456789A"):
        read(tmp_path)
    assert len({row.group for row in read(tmp_path, group="clip").rows}) == 2


NAMES = ["abseiling", "air drumming", "tai chi"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(NAMES),
        "id,name\n0,abseiling\n1,air drumming\n2,tai chi",
        "1 abseiling\r\n2 air drumming\r\n3 tai chi\r\n",
        json.dumps(NAMES),
        json.dumps({f'"{name}"': number for number, name in enumerate(NAMES)}),
        json.dumps({str(number): name for number, name in enumerate(NAMES)}),
    ],
)
def test_numbers_from_0_or_1_find_their_names(tmp_path: Path, first: int, content: str):
    name = "classes.json" if content.startswith(("[", "{")) else "classes.txt"
    (tmp_path / name).write_bytes(content.encode())
    train = [f"{number}.mp4 {number + first}" for number in range(3)]
    listing = read(write_pair(tmp_path, train, [f"9.mp4 {first}"]), class_list=name)
    assert labels_of(listing) == [*NAMES, NAMES[0]]
    assert f"class numbers count from {first}: {first} is 'abseiling'" in listing.notes


def test_numbers_that_may_start_at_0_or_1_must_be_told(tmp_path: Path):
    write_pair(tmp_path, ["a.mp4 1", "b.mp4 2"], ["c.mp4 1"])
    write_lines(tmp_path / "classes.txt", NAMES)
    with pytest.raises(ConfigError, match="may count from 0 or from 1") as error:
        read(tmp_path, class_list="classes.txt")
    assert error.value.where == "data.options.first_class"
    assert labels_of(read(tmp_path, class_list="classes.txt", first_class=0))[0] == "air drumming"
    assert labels_of(read(tmp_path, class_list="classes.txt", first_class=1))[0] == "abseiling"
    write_lines(tmp_path / "numbered.txt", [f"{n} {name}" for n, name in enumerate(NAMES)])
    assert labels_of(read(tmp_path, class_list="numbered.txt"))[0] == "air drumming"


def test_numbers_without_a_class_list_sort_as_numbers_and_are_noted(tmp_path: Path):
    write_pair(tmp_path, [f"{n}.mp4 {n}" for n in (1, 2, 10)], ["x.mp4 2"])
    listing = read(tmp_path)
    assert labels_of(listing) == ["01", "02", "10", "02"]
    assert listing.notes[0].startswith("classes are numbers from 1 to 10")


@pytest.mark.parametrize(
    ("line", "options", "problem", "hint"),
    [
        ("b.mp4 7", {"class_list": "classes.txt"}, "label 7 is not in", "0 to 2"),
        ("b.mp4 run", {}, "'run' is a class name, but other lines give numbers", "names or"),
        ("b.mp4", {}, "expected '<path> <label>'", "'::'"),
        ("frames/b 300 4", {}, "expected '<path> <label>'", "'::'"),
        ("b.mp4 300 4", {}, "three columns", "frame folders"),
        ("../b.mp4 0", {}, "leaves the data folder", "below the root"),
        ("/etc/b.mp4 0", {}, "leaves the data folder", "below the root"),
    ],
)
def test_a_bad_line_is_named(
    tmp_path: Path, line: str, options: dict[str, str], problem: str, hint: str
):
    write_lines(tmp_path / "classes.txt", NAMES)
    write_pair(tmp_path, ["a.mp4 0"], ["c.mp4 0", line])
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path, **options)
    assert error.value.where == f"{tmp_path / 'val.txt'}:2"
    assert hint in str(error.value.hint)


def test_a_name_outside_the_class_list_names_the_nearest(tmp_path: Path):
    write_lines(tmp_path / "classes.txt", NAMES)
    write_pair(tmp_path, ["a.mp4 abseiling"], ["c.mp4 air druming"])
    with pytest.raises(DataError, match="'air druming' is not in the class list") as error:
        read(tmp_path, class_list="classes.txt")
    assert error.value.hint == "did you mean 'air drumming'?"
    write_lines(tmp_path / "classes.txt", ["1 a", "3 b"])
    with pytest.raises(DataError, match="skips or repeats a number"):
        read(tmp_path, class_list="classes.txt")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("abseiling,0123456789A,1", "3 fields where the header has 5"),
        ("abseiling,0123456789A,one,11,train", "'one' is no time in seconds"),
        ("abseiling,../../secret,1,11,train", "no YouTube id"),
        (",0123456789A,1,11,train", "label or the youtube_id is empty"),
    ],
)
def test_a_bad_csv_line_is_named(tmp_path: Path, line: str, problem: str):
    header = "label,youtube_id,time_start,time_end,split"
    write_lines(tmp_path / "train.csv", [header, line])
    write_lines(tmp_path / "val.csv", [header, "abseiling,0123456789B,1,11,validate"])
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert error.value.where == f"{tmp_path / 'train.csv'}:2"


def test_a_label_leads_out_of_no_folder(tmp_path: Path):
    (tmp_path / "secret").mkdir()
    root = tmp_path / "secret" / "k400"
    header = "label,youtube_id,time_start,time_end,split"
    for name in ("train", "val"):
        write_lines(root / f"{name}.csv", [header, f"..,{name:0<11},1,11,{name}"])
    write_clip(tmp_path / "secret" / "train000000_000001_000011.mp4", 1)
    assert all(row.path.is_relative_to(root) for row in read(root).rows)


def test_missing_lists_tell_where_they_were_sought(tmp_path: Path):
    with pytest.raises(DataError, match=r"train list of Kinetics is missing.*train\.csv") as error:
        read(tmp_path)
    assert "data.options.train_list" in str(error.value)
    header = "youtube_id,time_start,time_end,split"
    write_lines(tmp_path / "train.csv", [header])
    with pytest.raises(DataError, match="no column label"):
        read(tmp_path, judge_list="train.csv")
    (tmp_path / "train.csv").write_text("\n")
    with pytest.raises(DataError, match="the list is empty"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="has one split"):
        read(tmp_path, split=2)
