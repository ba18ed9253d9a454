"""One class at a time: what the page holds for it comes from the records and stays small."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report.drill import CONFUSIONS, confusions, drill_view, hardest_class
from regatta.report.material import Material, read_material
from regatta.report.page import class_view, report_tables
from regatta.report.style import clean_text
from tests.analysis.build import build_judged_study
from tests.report.conftest import HOSTILE_CLASSES
from tests.report.markup import parse


def data_of(folder: StudyFolder) -> dict[str, Any]:
    root = parse((folder.report / "report.html").read_text(encoding="utf-8"))
    return json.loads(str(root.by_id("drill-data").children[0]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_the_file_that_is_named_as_their_source(
    grid_report: StudyFolder,
) -> None:
    data = data_of(grid_report)
    found = {
        (entry["name"], name): texts
        for entry in data["entries"]
        for name, texts in zip(data["classes"], entry["scores"], strict=True)
    }
    rows = rows_of(grid_report.path / data["sources"]["scores"])
    assert len(rows) == len(found) == 8
    for row in rows:
        wanted = [f"{float(row[key]):.3f}" for key in ("precision", "recall", "f1")]
        assert found[row["entry"], row["class"]] == wanted


def test_confusions_are_the_largest_wrong_counts_of_row_and_column(
    grid_report: StudyFolder,
) -> None:
    data = data_of(grid_report)
    rows = rows_of(grid_report.path / data["sources"]["confusions"])
    counts = {(r["entry"], r["class"], r["predicted"]): int(r["count"]) for r in rows}
    names = data["classes"]
    for entry in data["entries"]:
        for place, (instead, taken) in enumerate(entry["confusions"]):
            others = [name for name in names if name != names[place]]
            row = {n: counts[entry["name"], names[place], n] for n in others}
            column = {n: counts[entry["name"], n, names[place]] for n in others}
            assert {names[k]: count for k, count in instead} == {n: c for n, c in row.items() if c}
            assert {names[k]: count for k, count in taken} == {n: c for n, c in column.items() if c}
            assert [c for _, c in instead] == sorted((c for _, c in instead), reverse=True)


def test_only_the_most_frequent_confusions_are_kept_and_right_answers_are_none() -> None:
    counts = np.array([[50, 0, 0], [3, 0, 4], [0, 0, 9]])
    assert confusions(counts) == [[[], [[1, 3]]], [[[2, 4], [0, 3]], []], [[], [[1, 4]]]]
    many = np.ones((CONFUSIONS + 4, CONFUSIONS + 4), dtype=int)
    assert all(len(pairs) == CONFUSIONS for both in confusions(many) for pairs in both)


def test_the_largest_drop_has_the_first_rank(grid_report: StudyFolder) -> None:
    data, material = data_of(grid_report), read_material(grid_report)
    for entry in data["entries"]:
        rows = material.comparison["robustness"]["entries"][entry["name"]]["classes"]
        drops = [row["drop_points"] for row in rows]
        for drop, (text, rank) in zip(drops, entry["drops"], strict=True):
            assert float(text.replace("−", "-")) == pytest.approx(drop, abs=0.051)
            assert rank == f"{sorted(drops, reverse=True).index(drop) + 1} of {len(drops)}"


def test_every_cell_of_the_grid_has_its_place_and_its_accuracies(grid_report: StudyFolder) -> None:
    data, material = data_of(grid_report), read_material(grid_report)
    assert data["grid"]["rows"] == ["100 %", "75 %", "50 %", "25 %", "10 %"]
    assert data["grid"]["cells"][0][0] == "c100s1"
    assert data["grid"]["cells"][4][4] == "c10s16"
    ids = {cell for row in data["grid"]["cells"] for cell in row}
    assert ids == set(class_view(material)["data"])


def test_samples_and_groups_of_a_class_are_counted(grid_report: StudyFolder) -> None:
    # 96 samples in groups of 4, four classes in turn.
    assert data_of(grid_report)["counts"] == [[24, 6]] * 4


def test_the_class_with_the_lowest_accuracy_is_shown_first(grid_report: StudyFolder) -> None:
    material = read_material(grid_report)
    rows = report_tables(material)["per_class"].rows
    means = [np.mean([cell.values[0] for cell in row[2:4]]) for row in rows]
    assert hardest_class(material) == int(np.argmin(means))
    root = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    chosen = [o for o in root.by_id("drill-class").all("option") if "selected" in o.attributes]
    assert [o.attributes["value"] for o in chosen] == [str(hardest_class(material))]


def test_without_script_the_panel_is_not_seen(grid_report: StudyFolder) -> None:
    root = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    assert "hidden" in root.by_id("drill").attributes


def test_hostile_class_names_stand_in_the_data_as_clean_text(hostile_report: StudyFolder) -> None:
    data = data_of(hostile_report)
    assert data["classes"] == [clean_text(name) for name in HOSTILE_CLASSES]
    raw = (hostile_report.report / "report.html").read_text(encoding="utf-8")
    block = raw.partition('id="drill-data">')[2].partition("</script>")[0]
    assert not set(block) & set("<>&'")


def test_answers_per_class_leave_scores_and_samples_out(grid_report: StudyFolder) -> None:
    material = read_material(grid_report)
    comparison = {**material.comparison, "hard_samples": None, "classification": None}
    bare = Material(
        grid_report, comparison, material.positions, material.runs, material.curves, None
    )
    data = drill_view(bare)["data"]
    assert data["samples"] is None
    assert [entry["scores"] for entry in data["entries"]] == [None, None]
    assert data["counts"] == [[24]] * 4


@pytest.mark.slow
def test_a_hundred_classes_and_three_entries_add_less_than_300_kilobytes(tmp_path: Path) -> None:
    """With ids as long as they may get, and every list full."""
    names = [f"{number:03d}-{'long-class-name-' * 8}" for number in range(101)]

    def half_wrong(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        shift = np.arange(len(labels)) % 3 if entry == "vivit" else np.arange(len(labels)) % 2
        answer = (labels + shift * (1 + np.arange(len(labels)) // 2 % 5)) % 101
        return np.broadcast_to(np.eye(101)[answer], scores.shape)

    folder = build_judged_study(
        tmp_path,
        entries=3,
        samples=101 * 24,
        classes=names,
        samples_per_group=24,
        alter=half_wrong,
        compare={"replicates": 200},
    )
    material = read_material(folder)
    data = drill_view(material)["data"]
    assert max(len(never[1]) for never, _ in data["samples"]) == 8
    added = len(json.dumps(data)) + len(json.dumps(class_view(material)["data"]))
    assert added < 300_000
