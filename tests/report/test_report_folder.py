"""The report folder over time: same bytes, nothing stale, never half, never out of date."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from regatta.config.expand import protocol_id
from regatta.core.errors import RecordError
from regatta.records.run_folder import StudyFolder
from regatta.report.formats import FORMATS
from regatta.report.material import read_material
from regatta.report.page import write_report
from tests.report.conftest import small_study


def test_a_report_written_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    write_report(folder, formats=FORMATS)
    first = {p: p.read_bytes() for p in folder.report.rglob("*") if p.is_file()}
    shutil.rmtree(folder.report)
    write_report(folder, formats=FORMATS)
    assert {p: p.read_bytes() for p in folder.report.rglob("*") if p.is_file()} == first


def test_pictures_of_a_former_report_go_and_a_users_own_file_stays(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    stale = folder.report / "figures" / "former-entry" / "accuracy_heatmap.svg"
    own = folder.report / "figures" / "notes.txt"
    for path in (stale, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert write_report(folder) == folder.report / "report.html"
    assert not stale.parent.exists()
    assert own.read_text() == "x"


def damage_part(folder: StudyFolder) -> None:
    (_, run) = folder.runs()[0]
    next(run.predictions(protocol_id(folder.study().protocol)).glob("part-*")).write_bytes(b"cut")


def test_a_failed_report_leaves_the_former_one_whole(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    page = write_report(folder)
    before = {p: p.read_bytes() for p in folder.report.rglob("*") if p.is_file()}
    damage_part(folder)
    (folder.results / "comparison.json").unlink()
    with pytest.raises(RecordError, match="file is missing or was changed"):
        write_report(folder)
    assert page in before
    assert {p: p.read_bytes() for p in folder.report.rglob("*") if p.is_file()} == before


def test_nothing_judged_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    folder = small_study(tmp_path, unjudged=[("timesformer", 0)])
    with pytest.raises(RecordError) as caught:
        write_report(folder)
    assert caught.value.hint
    assert not folder.report.exists()


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:100])


def forget_run(path: Path) -> None:
    record = json.loads(path.read_text())
    record["provenance"]["runs"] = []
    path.write_text(json.dumps(record))


def other_replicates(path: Path) -> None:
    record = json.loads(path.read_text())
    record["provenance"]["replicates"] = 7
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("spoil", [cut, forget_run, other_replicates, Path.unlink])
def test_an_outdated_comparison_is_made_anew(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = small_study(tmp_path)
    read_material(folder)
    record = folder.results / "comparison.json"
    whole = record.read_text()
    spoil(record)
    assert read_material(folder).comparison["provenance"]["replicates"] == 200
    assert record.read_text() == whole
