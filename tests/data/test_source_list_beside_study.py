"""A CSV list may lie with the study instead of with the videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from regatta.core.registry import SOURCES


def test_list_beside_the_study_is_found_and_one_below_the_root_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = SOURCES.get("manifest")
    root, study = tmp_path / "videos", tmp_path / "study"
    root.mkdir()
    study.mkdir()
    (study / "list.csv").write_text("video_path,label,split\na.mp4,beside,test\n")
    monkeypatch.chdir(study)
    assert [row.label_name for row in read(root, split=1, seed=0, csv="list.csv")] == ["beside"]
    (root / "list.csv").write_text("video_path,label,split\na.mp4,below,test\n")
    assert [row.label_name for row in read(root, split=1, seed=0, csv="list.csv")] == ["below"]
