"""The table of every cost: the comparison's numbers with their units, and what was not measured."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from regatta.report.costs import cost_notes, costs_table
from regatta.report.material import Material, read_material
from regatta.report.numbers import energy_text
from regatta.report.page import report_tables, write_report
from regatta.report.pareto_part import cost_figure, pareto_table, pareto_view
from regatta.report.style import FigureGap, figure_style
from regatta.report.tables import as_csv
from tests.analysis.build import build_judged_study
from tests.report.conftest import small_study
from tests.report.markup import parse, table_named

ENERGY = {"energy_joules": 7.2e6, "energy_source": "cpu package"}


def altered(folder: StudyFolder, **changes: Any) -> Material:
    for _, run in folder.runs():
        write_json(run.training_results, {**read_json(run.training_results), **changes})
    return read_material(folder)


def row(material: Material, number: int = 0) -> dict[str, str]:
    table = costs_table(material)
    assert table is not None
    return {
        column.heading: cell.text
        for column, cell in zip(table.columns, table.rows[number], strict=True)
    }


def test_every_cost_of_a_video_study_stands_in_one_row(tmp_path: Path) -> None:
    found = row(altered(small_study(tmp_path), **ENERGY, devices=4, train_seconds=3600.0))
    assert found == {
        "entry": "timesformer",
        "parameters": "1.08 M",
        "training time": "60 min",
        # 6 s decoding, 1.5 s preparing and 8 x 0.25 s for 24 clips in one condition.
        "judging, ms per clip": "396",
        "FLOPs per clip": "8 G",
        "device time": "4 h",
        "judging per sample, one condition": "0.396 s",
        "peak memory": "1.25 GiB",
        "training energy": "7.2 MJ (cpu package)",
    }


def test_judging_per_sample_covers_all_conditions(tmp_path: Path) -> None:
    material = read_material(small_study(tmp_path, protocol="temporal-grid"))
    # The same 9.5 s for 24 samples, in 25 conditions each.
    assert row(material)["judging per sample, all 25 conditions"] == "0.396 s"
    assert row(material)["judging, ms per clip"] == "15.8"


def test_what_energy_covers_is_said_beside_it_and_in_the_file(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    assert cost_notes(read_material(folder)) == []
    assert row(read_material(folder))["training energy"] == "not measured"
    (folder.results / "comparison.json").unlink()
    material = altered(folder, **ENERGY)
    (note,) = cost_notes(material)
    assert "everything that ran on the CPU packages" in note
    table = costs_table(material)
    assert table is not None
    (found,) = csv.DictReader(as_csv(table).splitlines())
    assert (found["energy_joules"], found["energy_source"]) == ("7200000", "cpu package")


@pytest.mark.parametrize(
    ("joules", "shown"),
    [(0.0, "0 J"), (999.0, "999 J"), (1234.0, "1.23 kJ"), (4.56e7, "45.6 MJ")],
)
def test_joules_are_written_with_their_unit(joules: float, shown: str) -> None:
    assert energy_text(joules) == shown


def test_the_budget_has_the_estimate_of_training_flops(tmp_path: Path) -> None:
    material = altered(small_study(tmp_path), trained_parameters=1_080_000)
    table = report_tables(material)["budget"]
    headings = [column.heading for column in table.columns]
    # 3 x 8e9 x 600.
    place = headings.index("training FLOPs, estimate")
    assert table.rows[0][place].text == "14.4 T"


def test_the_front_stands_in_figure_table_and_words(tmp_path: Path) -> None:
    folder = build_judged_study(
        tmp_path, entries=2, samples=48, protocol="plain", skills=(3.0, -1.0),
        compare={"replicates": 200},
    )  # fmt: skip
    altered(folder, **ENERGY)
    write_report(folder)
    root = parse((folder.report / "report.html").read_text(encoding="utf-8"))
    section = root.by_id("training").text()
    assert "timesformer is on the front of every cost that was measured" in section
    assert "videomae is beaten by timesformer." in section
    rows = table_named(root, "On the accuracy-cost front")
    assert rows[1][2] == "front (100 %)"
    assert rows[2][2].startswith("beaten by timesformer (")
    assert "everything that ran on the CPU packages" in root.by_id("results").text()
    image = next(e for e in root.by_id("training").all("img") if "costs" in e.attributes["alt"])
    assert "parameters: timesformer" in image.attributes["alt"]


def test_a_cost_that_lacks_for_one_entry_is_named_in_the_caption(tmp_path: Path) -> None:
    folder = small_study(tmp_path, entries=2)
    run = folder.runs()[0][1]
    write_json(run.training_results, {**read_json(run.training_results), "train_seconds": None})
    material = read_material(folder)
    with figure_style():
        figure = cost_figure(material)
    assert not isinstance(figure, FigureGap)
    assert "Not measured: training time of timesformer." in figure.caption


def test_with_nothing_measured_there_is_no_table_and_a_sentence(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    material = read_material(folder)
    assert pareto_table(material) is None
    assert pareto_view(material) is None
    for entry in material.comparison["entries"]:
        entry["cost"] = dict.fromkeys(entry["cost"])
    for axis in material.comparison["pareto"]["axes"]:
        axis.update(entries=[], front=[])
    bare = Material(folder, material.comparison, material.positions, [], [])
    assert costs_table(bare) is None
    with figure_style():
        assert isinstance(cost_figure(bare), FigureGap)
