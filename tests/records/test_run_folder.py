"""Promises of the study folder: reopened when it is ours, refused by name when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.config.expand import expand_study
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.errors import DiskError, RecordError
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder, open_study


def study(name: str = "s", epochs: int = 1) -> Study:
    return study_from_mapping(
        {
            "name": name,
            "data": {"source": "folder", "root": "videos"},
            "entries": ["videomae", "vivit"],
            "train": {"epochs": epochs},
        }
    )


def test_opening_twice_changes_nothing(tmp_path: Path):
    folder = open_study(tmp_path, study())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert open_study(tmp_path, study()) == folder
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert folder.study() == study()
    assert [spec.entry.name for spec, _ in folder.runs()] == ["videomae", "vivit"]


def test_changed_study_gets_new_run_folders_and_keeps_the_old(tmp_path: Path):
    old = open_study(tmp_path, study(epochs=1))
    old_ids = [spec.run_id for spec, _ in old.runs()]
    open_study(tmp_path, study(epochs=2))
    kept = {p.name for p in (tmp_path / "s" / "runs").iterdir()}
    assert set(old_ids) < kept
    assert len(kept) == 4


def test_folder_of_another_study_is_refused(tmp_path: Path):
    open_study(tmp_path, study("other"))
    (tmp_path / "other").rename(tmp_path / "s")
    with pytest.raises(RecordError, match="holds the study 'other', not 's'"):
        open_study(tmp_path, study("s"))


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(RecordError, match="not empty and is not a study"):
        open_study(tmp_path, study())
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_run_folder_made_with_other_settings_is_refused(tmp_path: Path):
    folder = open_study(tmp_path, study())
    run = folder.run(expand_study(study())[0].run_id)
    write_json(run.run_json, {**read_json(run.run_json), "content_hash": "0" * 64})
    with pytest.raises(RecordError, match="made with other settings"):
        open_study(tmp_path, study())


def test_unwritable_place_is_a_disk_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        open_study(tmp_path / "file", study())


def test_a_folder_without_study_is_named(tmp_path: Path):
    with pytest.raises(RecordError, match=r"no study\.yaml") as caught:
        StudyFolder(tmp_path).study()
    assert "regatta run" in str(caught.value)
