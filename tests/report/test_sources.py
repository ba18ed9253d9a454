"""Every number of a report says where it stands: a file of the study, and the place in it."""

from __future__ import annotations

import pytest

from regatta.records.run_folder import StudyFolder
from regatta.report.material import read_material
from regatta.report.page import report_tables
from regatta.report.tables import Cell, Column, Table
from tests.report.markup import parse

STUDIES = ["grid_report", "hostile_report", "hostile_grid"]


def is_number(column: Column, cell: Cell) -> bool:
    known = [value for value in cell.values if value not in (None, "")]
    return bool(known) and (column.numeric or any(isinstance(v, (int, float)) for v in known))


@pytest.mark.parametrize("study", STUDIES)
def test_every_number_in_a_table_names_its_source(
    request: pytest.FixtureRequest, study: str
) -> None:
    tables = report_tables(read_material(request.getfixturevalue(study)))
    without = {
        (name, column.heading)
        for name, table in tables.items()
        for row in table.rows
        for column, cell in zip(table.columns, row, strict=True)
        if is_number(column, cell) and not cell.source
    }
    assert without == set()


@pytest.mark.parametrize("study", STUDIES)
def test_every_source_is_a_file_of_the_study(request: pytest.FixtureRequest, study: str) -> None:
    folder: StudyFolder = request.getfixturevalue(study)
    names = {path.name for path in folder.path.rglob("*") if path.is_file()}
    for table in report_tables(read_material(folder)).values():
        for listed in table.sources:
            file = listed.partition(" (")[0]
            if file.endswith("more files"):
                continue
            known = (folder.path / file).is_file() or file.partition(" of ")[0] in names
            assert known, (table.name, listed)


def cells(*sources: str) -> list[list[Cell]]:
    return [[Cell("1", (1,), source)] for source in sources]


def table_of(*sources: str) -> Table:
    return Table("t", "t", [Column("n", ("n",))], cells(*sources))


def test_sources_of_a_table_are_files_with_their_places_or_their_number() -> None:
    few = table_of("results/a.csv, row 1", "results/a.csv, row 2", "results/b.json: pairs, 3", "c")
    assert few.sources == ["results/a.csv (row 1, row 2)", "results/b.json (pairs)", "c"]
    many = table_of(*(f"results/a.csv, class {n}" for n in range(101)), "")
    assert many.sources == ["results/a.csv (101 places)"]
    assert table_of(*(f"run-{n}.json" for n in range(40))).sources[-1] == "28 more files"
    assert table_of("").sources == []


def test_a_table_of_the_page_lists_its_sources_below(grid_report: StudyFolder) -> None:
    root = parse((grid_report.report / "report.html").read_text(encoding="utf-8"))
    shown = {
        " ".join(e.text().split())
        for e in root.all("details")
        if e.attributes.get("class") == "sources"
    }
    for table in report_tables(read_material(grid_report)).values():
        assert f"Sources {'; '.join(table.sources)}" in shown, table.name
