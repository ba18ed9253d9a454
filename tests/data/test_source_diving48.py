"""Promises of the source `diving48`: JSON lists with numbers, named by the vocabulary."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing
from regatta.data.scan import build_manifest
from tests.data.stand_ins import write_diving48

read_diving48 = SOURCES.get("diving48")
CLASSES = ["Back 15som 05Twis FREE", "Inward 25som NoTwis PIKE"]


def read(root: Path, **options: object) -> Listing:
    return read_diving48(root, **{"split": 1, "seed": 0, **options})


def replace_entry(root: Path, part: str = "test", **changes: Any) -> Path:
    path = root / "annotations" / f"Diving48_V2_{part}.json"
    entries = json.loads(path.read_text())
    entries[1] |= changes
    path.write_text(json.dumps(entries))
    return path


def test_a_stand_in_tree_becomes_a_manifest_grouped_by_competition(tmp_path: Path):
    root = write_diving48(tmp_path / "diving")
    data = DataSection.model_validate({"source": "diving48", "root": str(root)})
    manifest = build_manifest(data, cache_folder=tmp_path / "cache")
    assert manifest.classes == CLASSES
    counts = Counter(sample.split for sample in manifest.samples)
    assert counts == {"train": 8, "validation": 4, "test": 4}
    groups = {sample.group for sample in manifest.samples}
    assert groups == {"-mmq0PT_u8k", "_8Vy3dlHg2w", "2x00lRz", "xP"}
    assert {sample.frames for sample in manifest.samples} == {6}


def test_a_competition_in_both_lists_is_a_leak_unless_clips_are_taken_alone(tmp_path: Path):
    write_diving48(tmp_path)
    replace_entry(tmp_path, vid_name="2x00lRz_00099")
    with pytest.raises(SplitLeakError, match=r"2x00lRz \(test, train\)") as error:
        read(tmp_path)
    assert "data.options.group: clip" in str(error.value)
    listing = read(tmp_path, group="clip")
    assert "1 source video(s) stand in more than one split: 2x00lRz" in listing.notes[0]


def test_the_first_labels_and_other_folders_can_be_read(tmp_path: Path):
    write_diving48(tmp_path)
    for path in (tmp_path / "annotations").glob("*V2*"):
        path.rename(path.with_name(path.name.replace("_V2", "")))
    (tmp_path / "rgb").rename(tmp_path / "clips")
    rows = read(tmp_path, version="V1", videos="clips", classes=CLASSES[:1]).rows
    assert {row.label_name for row in rows} == {CLASSES[0]}
    assert all(row.path.is_file() for row in rows)
    with pytest.raises(ConfigError) as error:
        read(tmp_path, version="V1", classes=["Back 15som 15Twis FREE"])
    assert error.value.hint == f"did you mean '{CLASSES[0]}'?"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": 2}, "label 2 of xP_00001 is not in the vocabulary of 2 classes"),
        ({"label": -1}, "label -1"),
        ({"label": True}, "label True"),
        ({"label": "0"}, "label '0'"),
        ({"vid_name": None}, "no vid_name"),
        ({"vid_name": "../../secret"}, "leaves the data folder"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, changes: dict[str, Any], problem: str):
    path = replace_entry(write_diving48(tmp_path), **changes)
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert error.value.where == f"{path} entry 2"


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{}", "not a JSON list"), ("[]", "not a JSON list"), ('[["a"], ["a"]]', "a class twice: a")],
)
def test_a_bad_vocabulary_is_named(tmp_path: Path, content: str, problem: str):
    path = write_diving48(tmp_path) / "annotations" / "Diving48_vocab.json"
    path.write_text(content)
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert error.value.where == str(path)


def test_missing_lists_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="vocabulary of Diving48 is missing"):
        read(tmp_path)
    (write_diving48(tmp_path) / "annotations" / "Diving48_V2_test.json").unlink()
    with pytest.raises(DataError, match="list of Diving48 is missing") as error:
        read(tmp_path)
    assert str(error.value.where).endswith("Diving48_V2_test.json")
