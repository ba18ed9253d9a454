"""Promises of the source `ssv2`: JSON lists whose templates become classes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Listing
from regatta.data.scan import build_manifest
from tests.data.stand_ins import write_ssv2

read_ssv2 = SOURCES.get("ssv2")
CLASSES = ["Putting something on something", "Something falling like a feather or paper"]


def read(root: Path, **options: object) -> Listing:
    return read_ssv2(root, **{"split": 1, "seed": 0, **options})


def replace_entry(root: Path, **changes: Any) -> Path:
    path = root / "labels" / "train.json"
    entries = json.loads(path.read_text())
    entries[1] = {key: value for key, value in {**entries[1], **changes}.items() if value != ""}
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_a_stand_in_tree_becomes_a_manifest(tmp_path: Path, suffix: str):
    root = write_ssv2(tmp_path / "ssv2", suffix=suffix)
    data = DataSection.model_validate({"source": "ssv2", "root": str(root)})
    manifest = build_manifest(data, cache_folder=tmp_path / "cache")
    assert manifest.classes == CLASSES
    counts = Counter(sample.split for sample in manifest.samples)
    assert counts == {"train": 6, "validation": 2, "test": 4}
    assert "the published validation list is judged as the test split" in manifest.notes
    assert all(sample.path.endswith(f"{sample.group}{suffix}") for sample in manifest.samples)


def test_published_file_names_and_folders_are_found(tmp_path: Path):
    expected = read(write_ssv2(tmp_path))
    for name in ("labels", "train", "validation"):
        (tmp_path / "labels" / f"{name}.json").rename(
            tmp_path / f"something-something-v2-{name}.json"
        )
    (tmp_path / "labels" / "test.json").unlink()
    (tmp_path / "labels").rmdir()
    assert read(tmp_path) == expected


def test_a_clip_without_a_file_keeps_its_published_name(tmp_path: Path):
    row = read(write_ssv2(tmp_path)).rows[0]
    row.path.unlink()
    assert read(tmp_path).rows[0].path == row.path


def test_chosen_classes(tmp_path: Path):
    write_ssv2(tmp_path)
    assert {row.label_name for row in read(tmp_path, classes=CLASSES[:1]).rows} == {CLASSES[0]}
    with pytest.raises(ConfigError) as error:
        read(tmp_path, classes=["Putting something onto something"])
    assert error.value.hint == f"did you mean '{CLASSES[0]}'?"


@pytest.mark.parametrize(
    ("changes", "problem", "hint"),
    [
        ({"template": "Puting [something] on [something]"}, "is not in the class list", CLASSES[0]),
        ({"template": ""}, "clip 2 has no template", "test list has no labels"),
        ({"id": ""}, "has no id", "data.options.lists"),
        ({"id": "../../secret"}, "leaves the data folder", "below the root"),
        ({"id": "/etc/passwd"}, "leaves the data folder", "below the root"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, changes: dict[str, Any], problem: str, hint: str):
    path = replace_entry(write_ssv2(tmp_path), **changes)
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert error.value.where == f"{path} entry 2"
    assert hint in str(error.value.hint)


@pytest.mark.parametrize(
    ("content", "problem", "place"),
    [
        (b'[{"id": "1",\n', "is not JSON", ":"),
        (b"{}", "is not a JSON list", ""),
        (b"[1]", "not a JSON object", " entry 1"),
        ("größe".encode("latin-1"), "not UTF-8", ":1"),
    ],
)
def test_a_broken_list_is_named(tmp_path: Path, content: bytes, problem: str, place: str):
    path = write_ssv2(tmp_path) / "labels" / "train.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as error:
        read(tmp_path)
    assert str(error.value.where).startswith(f"{path}{place}")


def test_byte_order_marks_change_nothing(tmp_path: Path):
    expected = read(write_ssv2(tmp_path))
    for path in (tmp_path / "labels").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b", ", b",\r\n"))
    assert read(tmp_path) == expected


def test_missing_lists_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"labels list of ssv2 is missing.*labels\.json"):
        read(tmp_path)
    write_ssv2(tmp_path)
    (tmp_path / "labels" / "labels.json").write_text("[]")
    with pytest.raises(DataError, match="the class list of ssv2 is not"):
        read(tmp_path)
