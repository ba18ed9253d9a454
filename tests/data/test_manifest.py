"""Promises of the manifest: what is saved is loaded, and its hash names the science alone."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regatta.core.errors import RecordError
from regatta.data.manifest import Dropped, Manifest, Sample


def sample(number: int, **changes: object) -> Sample:
    base = Sample(
        sample_id=f"walk/clip{number}.mp4",
        path=f"/videos/walk/clip{number}.mp4",
        label=number % 2,
        label_name=("Gehen", "走る")[number % 2],
        group=f"g{number}",
        split="test" if number == 3 else "train",
        start_frame=0,
        frames=50 + number,
        fps=30000 / 1001,
        width=320,
        height=240,
        duration_seconds=1.5,
        content_hash=f"{number:064x}",
        extra={"rate_hz": 2.5, "name": "ü"},
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        samples=[sample(number) for number in range(6)],
        classes=["Gehen", "走る"],
        dropped=[Dropped("walk/bad.mp4", "truncated: 3 of the 9 frames in its header")],
        notes=["there is no validation split"],
    )


def test_what_is_saved_is_loaded(tmp_path: Path, manifest: Manifest):
    manifest.save(tmp_path / "new" / "manifest.parquet")
    assert Manifest.load(tmp_path / "new" / "manifest.parquet") == manifest


def test_an_empty_manifest_survives_saving(tmp_path: Path):
    Manifest([], []).save(tmp_path / "manifest.parquet")
    assert Manifest.load(tmp_path / "manifest.parquet") == Manifest([], [])


def test_other_tools_can_read_the_table(tmp_path: Path, manifest: Manifest):
    manifest.save(tmp_path / "manifest.parquet")
    table = pq.read_table(tmp_path / "manifest.parquet").to_pandas()
    assert list(table["frames"]) == [50, 51, 52, 53, 54, 55]
    assert table["fps"].dtype == float
    assert list(table["label_name"].unique()) == ["Gehen", "走る"]


def test_a_split_holds_its_samples_in_order(manifest: Manifest):
    assert [s.sample_id for s in manifest.split("test")] == ["walk/clip3.mp4"]
    assert [s.label for s in manifest.split("train")] == [0, 1, 0, 0, 1]
    assert manifest.split("validation") == []


@pytest.mark.parametrize(
    "change",
    [
        {"sample_id": "walk/other.mp4"},
        {"label": 1},
        {"group": "g9"},
        {"split": "validation"},
        {"start_frame": 1},
        {"frames": 49},
        {"content_hash": "f" * 64},
    ],
)
def test_the_hash_changes_with_everything_that_changes_the_science(
    manifest: Manifest, change: dict[str, object]
):
    changed = [replace(manifest.samples[0], **change), *manifest.samples[1:]]  # pyright: ignore
    assert Manifest(changed, manifest.classes).hash() != manifest.hash()


def test_the_hash_changes_with_the_classes_and_with_a_missing_sample(manifest: Manifest):
    assert Manifest(manifest.samples, ["走る", "Gehen"]).hash() != manifest.hash()
    assert Manifest(manifest.samples[1:], manifest.classes).hash() != manifest.hash()


def test_the_hash_is_free_of_order_place_and_remarks(manifest: Manifest):
    moved = [replace(s, path="/elsewhere/" + s.sample_id) for s in manifest.samples]
    random.Random(0).shuffle(moved)
    assert Manifest(moved, manifest.classes, [], ["a remark"]).hash() == manifest.hash()


def test_samples_cannot_be_changed(manifest: Manifest):
    with pytest.raises(FrozenInstanceError):
        manifest.samples[0].label = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_cut_missing_or_foreign_file_is_a_named_error(tmp_path: Path, manifest: Manifest):
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    manifest.save(whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    foreign, newer = tmp_path / "foreign.parquet", tmp_path / "newer.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    table = pq.read_table(whole)
    header = table.schema.metadata[b"regatta"].replace(b'"version": 1', b'"version": 99')
    pq.write_table(table.replace_schema_metadata({b"regatta": header}), newer)
    for path in (cut, foreign, newer, tmp_path / "missing.parquet"):
        with pytest.raises(RecordError, match="manifest cannot be read") as error:
            Manifest.load(path)
        assert error.value.where == str(path)
        assert "run the study again" in str(error.value)
